#!/bin/bash
# make-compiled.sh
#
# Makes ./.venv-compiled with the wheel of this checkout, its hot path compiled where that is possible, as `make install` does;
# what it depends on is taken from ./.venv. The tests start that daemon, and the benchmark measures it. CI=true: it must be
# possible.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-compiled
work=$(mktemp --directory --tmpdir policyd-rate-limit-wheel.XXXXXX)
trap 'rm -rf "$work"' EXIT

site_packages() {
    "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))'
}

if [ "${CI:-}" = true ]; then export POLICYD_RATE_LIMIT_COMPILE=1; fi
.venv/bin/python -m build --wheel --no-isolation --outdir "$work" . >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }
.venv/bin/python -m venv --clear --without-pip $venv
site_packages .venv >"$(site_packages $venv)/dependencies.pth"
.venv/bin/pip --python $venv/bin/python install --quiet --disable-pip-version-check --no-deps --ignore-installed "$work"/*.whl
