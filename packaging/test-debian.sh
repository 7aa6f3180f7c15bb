#!/bin/bash
# test-debian.sh SUITE [TEST...]
#
# Runs `make test` on a freshly installed Debian SUITE, such as trixie, in a clone of HEAD, as README.md says; with TESTs
# (tests/unit) only those. Ends with the figures of all runs of pytest, and with the status of make. Needs root.
#
# The Debian is a directory of this machine, made by mmdebstrap, with processes and mounts of its own and the network of
# this machine. Its packages come from the mirror that this machine's apt uses; apt's proxies, pip's configuration and
# the certificates of this machine are those of the other one, too.
#
#   ROOT      a directory that keeps the Debian and all that is installed there for the next run; unset: it is removed
#   PYTHON    the interpreter there, which a package of the same name and one that ends in -venv bring; unset: python3
#   TARGET    test: the target of the Makefile
#   SHELL_IN  set: a shell there instead of the tests
set -euo pipefail
cd "$(dirname "$0")/.."
suite=${1:?the suite of Debian, such as trixie}
shift

die() {
    echo "$*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || die 'Only root can make another Debian.'
[ -d .git ] || [ -f .git ] || die 'It tests what is committed: this is no clone.'
[ -z "$(git status --porcelain)" ] || echo 'Not all is committed: HEAD is what is tested.' >&2
packaging/debian-install.sh mmdebstrap

work=$(mktemp --directory --tmpdir policyd-rate-limit-debian.XXXXXX)
root=$(realpath --canonicalize-missing "${ROOT:-$work/root}")
trap 'rm -rf --one-file-system "$work"' EXIT

mirror() { # that of this machine's own Debian, if it has one
    apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
        awk -v own="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" '$2 == own && $3 == "main" { print $1; exit }'
}

apt_options() { # how this machine reaches a mirror, and what it thinks of the dates there
    apt-config dump --format '%f "%v";%n' Acquire | grep -iE '^Acquire::(Check-|[a-z]+::(Proxy|Verify|Timeout))' || true
}

make_root() {
    local python=(python3) options=() option
    [ -z "${PYTHON:-}" ] || python+=("$PYTHON" "$PYTHON-venv")
    while read -r option; do options+=(--aptopt="$option"); done < <(apt_options)
    rm -rf "$root"
    # Nobody needs this Debian after a crash: dpkg, which waits for the disk at each package, need not.
    mmdebstrap --mode=root --variant=minbase --quiet --dpkgopt=force-unsafe-io "${options[@]}" \
        --include="$(IFS=,; echo "ca-certificates,git,make,${python[*]}")" "$suite" "$root" $(mirror)
    printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n' >"$root/etc/hosts"
    local path
    for path in /etc/pip.conf /etc/xdg/pip /root/.config/pip /etc/ssl/certs/ca-certificates.crt; do
        [ ! -e $path ] || { mkdir -p "$root${path%/*}" && cp -rT $path "$root$path"; }
    done
    # Directories of this machine, as which pip may have an index or a heap of wheels, are not there.
    find "$root/etc/pip.conf" "$root/etc/xdg/pip" "$root/root/.config/pip" -type f -exec \
        sed -i -E '/^ *(find-links|(extra-)?index-url) *=.*(file:|[= ]\/)/d' {} + 2>/dev/null || true
    touch "$root/.made"
}

[ -e "$root/.made" ] || make_root
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
checkout=$root/root/policyd-rate-limit
if [ -d "$checkout" ]; then
    git -C "$checkout" -c safe.directory="$checkout" fetch --quiet "$PWD" HEAD
    git -C "$checkout" -c safe.directory="$checkout" reset --quiet --hard FETCH_HEAD
else
    git -c advice.detachedHead=false clone --quiet --no-hardlinks . "$checkout"
fi

environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive)
environment+=(CI=true "PYTHON=${PYTHON:-}")
while IFS= read -r setting; do environment+=("$setting"); done < <(env | grep -iE '^(PIP_[A-Z_]+|https?_proxy|no_proxy)=' | grep -v '^PIP_FIND_LINKS=' || true)
command="make ${TARGET:-test} ONLY='${*:-tests}'"
[ -z "${SHELL_IN:-}" ] || command=${SHELL_IN}

mkdir "$work/machine" "$work/shared"
began=$SECONDS
status=0
(cd "$work/machine" && exec unshare --mount --propagation private \
    bash "$OLDPWD/tests/support/machine.sh" "$root" "$work/shared" host \
    env -i "${environment[@]}" bash -c "cd /root/policyd-rate-limit && $command; exit \$?" 3>/dev/null) |
    tee "$work/log" || status=$?

count() { # how many tests the last lines of pytest call $1
    grep -E '^=+ .* in [0-9.]+s' "$work/log" | grep -oE "[0-9]+ $1" | awk '{ sum += $1 } END { print sum + 0 }'
}
echo "Debian $suite: $((SECONDS - began)) s, $(count rerun) run again, status $status"
echo "$suite: $(count passed) passed, $(( $(count failed) + $(count error) )) failed, $(count skipped) skipped"
exit $status
