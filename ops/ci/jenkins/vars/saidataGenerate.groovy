/**
 * A step for Jenkins pipelines: saidataGenerate(list: 'names.txt', out: 'software', commit: 'Refresh saidata', branch: 'main').
 *
 * Writes or refreshes the files of the names on the list. Without `commit` the change is left in the workspace; without `branch`
 * the commit is not pushed. `saidata` and an index have to be on the agent; the key of a server is SAIDATA_API_KEY, from
 * withCredentials. Where some names could not be done the build is unstable, and the others are committed.
 */
def call(Map config = [:]) {
    List settings = [
        "SAIDATA_LIST=${config.get('list', 'names.txt')}",
        "SAIDATA_OUT=${config.get('out', 'software')}",
        "SAIDATA_BASE_URL=${config.get('baseUrl', '')}",
        "SAIDATA_ARGUMENTS=${config.get('arguments', []).join('\n')}",
        "SAIDATA_COMMIT=${config.get('commit', '')}",
        "SAIDATA_BRANCH=${config.get('branch', '')}",
    ]
    int code = 0
    withEnv(settings) {
        code = sh(returnStatus: true, label: 'saidata', script: '''
            IFS="$(printf '\\n_')"; IFS="${IFS%_}"
            set -f
            code=0
            saidata batch ${SAIDATA_BASE_URL:+--base-url=$SAIDATA_BASE_URL} $SAIDATA_ARGUMENTS --out "$SAIDATA_OUT" -- "$SAIDATA_LIST" || code=$?
            [ "$code" = 0 ] || [ "$code" = 3 ] || exit "$code"
            if [ -n "$SAIDATA_COMMIT" ]; then
                git add --all -- "$SAIDATA_OUT" || exit
                if ! git diff --cached --quiet -- "$SAIDATA_OUT"; then
                    git diff --cached --stat -- "$SAIDATA_OUT"
                    git -c user.name=saidata -c user.email=saidata@localhost commit --quiet --message "$SAIDATA_COMMIT" -- "$SAIDATA_OUT" || exit
                    [ -z "$SAIDATA_BRANCH" ] || git push --quiet origin "HEAD:refs/heads/$SAIDATA_BRANCH" || exit
                fi
            fi
            exit "$code"
        ''')
    }
    if (code == 3) {
        unstable('saidata could not do every name; see the log')
    } else if (code != 0) {
        error("saidata could not generate the files: exit code ${code}")
    }
    return code
}
