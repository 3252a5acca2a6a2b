/**
 * A step for Jenkins pipelines: saidataCheck(paths: ['software/'], failOn: 'warning').
 *
 * Put the folder above this one's into a shared library. `saidata` has to be on the agent's PATH. The step shows the findings as
 * test results; with findings the build is unstable, and it fails where saidata itself could not do its work.
 */
def call(Map config = [:]) {
    List settings = [
        "SAIDATA_COMMAND=${config.get('command', 'lint')}",
        "SAIDATA_PATHS=${config.get('paths', ['.']).join('\n')}",
        "SAIDATA_FAIL_ON=${config.get('failOn', 'warning')}",
        "SAIDATA_REPORT=${config.get('report', 'saidata-junit.xml')}",
        "SAIDATA_ARGUMENTS=${config.get('arguments', []).join('\n')}",
    ]
    int code = 0
    withEnv(settings) {
        code = sh(returnStatus: true, label: 'saidata', script: '''
            IFS="$(printf '\\n_')"; IFS="${IFS%_}"
            set -f
            saidata "$SAIDATA_COMMAND" $SAIDATA_ARGUMENTS --format junit --output "$SAIDATA_REPORT" --fail-on never -- $SAIDATA_PATHS || exit
            saidata "$SAIDATA_COMMAND" $SAIDATA_ARGUMENTS --fail-on "$SAIDATA_FAIL_ON" -- $SAIDATA_PATHS
        ''')
    }
    if (code == 0 || code == 3) {
        junit(testResults: config.get('report', 'saidata-junit.xml'), skipMarkingBuildUnstable: code == 0)
    }
    if (code == 3) {
        unstable('saidata found something; see the test results')
    } else if (code != 0) {
        error("saidata could not check the files: exit code ${code}")
    }
    return code
}
