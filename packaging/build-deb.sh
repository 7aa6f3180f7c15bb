#!/bin/bash
# build-deb.sh PYTHON [DIRECTORY]
#
# Builds the Debian package for the release and architecture of this machine from the sdist that `PYTHON -m build` makes
# of this checkout, and puts it into DIRECTORY (dist). PYTHON has build and hatchling.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "$1")
target=$(realpath --canonicalize-missing "${2:-dist}")

work=$(mktemp --directory --tmpdir policyd-rate-limit-deb.XXXXXX)
trap 'rm -rf "$work"' EXIT
"$python" -m build --sdist --no-isolation --outdir "$work" . >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
mkdir "$work/source"
tar --extract --file "$work"/*.tar.gz --directory "$work/source" --strip-components 1
cd "$work/source"
cp -r packaging/debian debian
# What is built on the next release of Debian is newer, so that apt takes it after an upgrade of Debian.
release=$(. /etc/os-release && echo "${ID:-linux}${VERSION_ID:-}" | sed 's/^debian/deb/; s/[^a-z0-9.]//g')
sed -i "1s/)/+$release)/" debian/changelog
dpkg-buildpackage --build=binary --unsigned-source --unsigned-changes >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
mkdir -p "$target"
mv "$work"/*.changes "$work"/*.buildinfo "$target"
for package in "$work"/*.deb; do
    mv "$package" "$target"
    echo "$target/${package##*/}"
done
