#!/bin/sh
# Print a Python that can run redline: 3.11 or 3.12 with the venv module. $PYTHON, if set, is the only candidate.
# A name on the PATH is not enough (version managers put shims there that only fail), so each one is asked.
ask='import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'

for candidate in ${PYTHON:-python3.12 python3.11 python3 python}; do
    if "$candidate" -c "$ask" >/dev/null 2>&1; then
        echo "$candidate"
        exit 0
    fi
done

if [ -n "$PYTHON" ]; then
    echo "redline: PYTHON=$PYTHON is not a Python 3.11 or 3.12 with the venv module." >&2
else
    echo "redline needs Python 3.11 or 3.12 with the venv module, and found none on the PATH." >&2
    echo "Install one (Debian, Ubuntu: python3 and python3-venv), or name it: make demo PYTHON=/path/to/python3.12" >&2
fi
exit 1
