#!/bin/bash
# make-venv.sh [EXTRA]
#
# Makes or repairs ./.venv with this package, editable, and what EXTRA names in pyproject.toml ("test", or "bench", which
# holds it).
# PYTHON names the interpreter; unset: the first of Python 3.11 or later in the path.
# Quick when nothing is to be done: .venv/made-for holds what the environment was made for.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=${1:-}
stamp=.venv/made-for

wanted() { # what the stamp says after an installation with the extra $1
    echo "$PWD ${1:-none} $(sha256sum <pyproject.toml)"
}

works() { # the interpreter runs, and the commands beside it were made for this place
    .venv/bin/python -c 'import pip' && grep --quiet --fixed-strings "$PWD/.venv/bin/python" .venv/bin/pip
} 2>/dev/null

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
} 2>/dev/null

holds_it() { # an extra that holds all of EXTRA
    [ "$1" = bench ] || [ "$1" = "$extra" ] || { [ "$1" = test ] && [ "$extra" != bench ]; }
}

for name in "$extra" test bench; do
    if works && holds_it "$name" && grep --quiet --line-regexp --fixed-strings "$(wanted "$name")" $stamp 2>/dev/null; then
        exit 0
    fi
done

if ! works; then
    python=${PYTHON:-}
    for name in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if [ -z "$python" ] && is_recent $name; then python=$name; fi
    done
    if [ -z "$python" ]; then
        echo 'No Python 3.11 or later found. Debian 12 and later: sudo apt-get install python3 python3-venv' >&2
        exit 1
    elif ! is_recent "$python"; then
        echo "PYTHON=$python is not a Python 3.11 or later" >&2
        exit 1
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian keeps this part of the standard library in a package of its own.
        packaging/debian-install.sh "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    echo "Making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
rm -f $stamp
# Without --no-compile, compiling what is never imported takes half of the time.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".${extra:+[$extra]}"
wanted "$extra" >$stamp
