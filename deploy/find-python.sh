#!/bin/sh
# Print the path of a Python that can run Trilemma, or say in one sentence why there is none.
set -u
here=$(dirname "$0")
reason=""
for name in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    # A version manager's shim is found and yet may not run; only a Python that runs has an answer.
    path=$("$name" -c 'import sys; sys.stdout.write(sys.executable)' 2>/dev/null) || continue
    if answer=$("$path" "$here/check_python.py" 2>&1); then
        echo "$path"
        exit 0
    fi
    # The newest one tried is the one worth repairing.
    reason=${reason:-$answer}
done
if [ -z "$reason" ]; then
    reason="Trilemma needs Python 3.11 or newer, and found no ${PYTHON:-python3}."
fi
echo "$reason" >&2
exit 1
