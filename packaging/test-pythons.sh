#!/bin/bash
# test-pythons.sh oldest|pythons [TEST...]
#
# pythons: static checks and TESTs (tests/unit) on each version of Python, from 3.11 on, that is found in the path, below
# /usr/local or in a directory of pyenv's.
# oldest: TESTs on the oldest of these, with the oldest version of each library that pyproject.toml allows.
#
# The environments stay in var/pythons for the next run.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?oldest or pythons}
shift
tests=("${@:-tests/unit}")
parallel=(--numprocesses "$(nproc)" --dist worksteal)

found() { # the newest interpreter of each version: its version and its path
    local candidate
    for candidate in $(type -aP python3 python3.{11..19} || true) /usr/local/bin/python3.* \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
        [ -x "$candidate" ] || continue
        "$candidate" - 2>/dev/null <<'PYTHON' || true
import sys, sysconfig, venv, ensurepip
if sys.version_info >= (3, 11) and sys.implementation.name == "cpython" and sys.prefix == sys.base_prefix:
    print("%d.%d" % sys.version_info[:2], "%03d" % sys.version_info[2], sys.executable)
PYTHON
    done | sort -Vr | awk '!seen[$1]++ { print $1, $3 }' | sort -V
}

prepare() { # prepare ENVIRONMENT INTERPRETER VERSIONS
    local stamp
    stamp="$PWD $2 $(cat pyproject.toml "$3" | sha256sum)"
    [ "$(cat "$1/made-for" 2>/dev/null)" != "$stamp" ] || return 0
    "$2" -m venv --clear "$1"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[test]'
    # Afterwards: what only tests need may ask for newer ones than the program does. pip says so, and goes on.
    [ ! -s "$3" ] || "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --requirement "$3"
    echo "$stamp" >"$1/made-for"
}

oldest_versions() { # of what the program needs, its drivers of databases, its readers of countries and of Zstandard, the web page
    "$1" - <<'PYTHON'
import re, tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
for wanted in [*project["dependencies"], *extras["postgresql"], *extras["mysql"], *extras["redis"], *extras["geoip"], *extras["zstd"], *extras["web"]]:
    name, extra, version = re.match(r"([\w.-]+)(\[.*\])?>=([\d.]+)", wanted).groups()
    print(f"{name}=={version}")
    if extra == "[binary]":
        print(f"{name}-binary=={version}")
PYTHON
}

mapfile -t interpreters < <(found)
[ ${#interpreters[@]} -gt 0 ] || { echo 'No Python 3.11 or later with venv was found.' >&2; exit 1; }
mkdir -p var/pythons
: >var/pythons/none
failed=()
case $what in
    oldest)
        read -r version interpreter <<<"${interpreters[0]}"
        oldest_versions "$interpreter" >var/pythons/oldest
        echo "Python $version, $(paste -sd ' ' var/pythons/oldest)"
        prepare var/pythons/$version-oldest "$interpreter" var/pythons/oldest
        var/pythons/$version-oldest/bin/python -m pytest "${parallel[@]}" "${tests[@]}" || failed+=("$version-oldest")
        ;;
    pythons)
        for line in "${interpreters[@]}"; do
            read -r version interpreter <<<"$line"
            echo "Python $version: $interpreter"
            environment=var/pythons/$version
            prepare $environment "$interpreter" var/pythons/none
            $environment/bin/python -m ruff check && $environment/bin/python -m mypy --python-version "$version" &&
                $environment/bin/lint-imports --no-cache >/dev/null || failed+=("$version:check")
            $environment/bin/python -m pytest "${parallel[@]}" "${tests[@]}" || failed+=("$version:tests")
        done
        ;;
    *) echo 'test-pythons.sh oldest|pythons [TEST...]' >&2; exit 2 ;;
esac
echo "${#interpreters[@]} versions of Python found: $(printf '%s\n' "${interpreters[@]}" | cut -d ' ' -f 1 | paste -sd ' ')"
[ ${#failed[@]} -eq 0 ] || { echo "Failed: ${failed[*]}" >&2; exit 1; }
