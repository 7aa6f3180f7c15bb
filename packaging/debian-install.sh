#!/bin/bash
# debian-install.sh PACKAGE...
#
# Installs the Debian packages that are missing; with none missing it does nothing. Without root it installs
# nothing, says which are missing and what to type, and ends with status 3.
#
# A mail or database server that comes along is for tests only: it is neither configured nor started, and no installed
# package is removed to make room for it (a machine has one mail server; yours stays).
set -euo pipefail

missing=()
for package in "$@"; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

command="apt-get install --no-install-recommends --no-remove ${missing[*]}"
if ! [ -x /usr/bin/apt-get ]; then
    echo "Missing, under Debian's names: ${missing[*]}" >&2
    exit 3
elif [ "$(id -u)" -ne 0 ]; then
    printf 'Missing Debian packages: %s. To install them:\n    sudo %s\n' "${missing[*]}" "$command" >&2
    exit 3
fi

echo "Installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
if [[ " ${missing[*]} " == *" postfix "* ]]; then
    echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
fi
# invoke-rc.d(8) asks this program whether to start a service; 101 says no. One that is there already stays.
policy=/usr/sbin/policy-rc.d
if ! [ -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap 'rm -f $policy' EXIT
fi
apt-get update --quiet || echo 'apt-get update failed; going on with the package lists at hand' >&2
$command --yes --quiet
if [ -x /usr/bin/systemctl ]; then
    for package in "${missing[@]}"; do
        case $package in
            postfix) systemctl disable --quiet postfix.service || true ;;
            dovecot-core) systemctl disable --quiet dovecot.service dovecot.socket || true ;;
            postgresql) systemctl disable --quiet postgresql.service || true ;;
            mariadb-server) systemctl disable --quiet mariadb.service || true ;;
            redis-server | valkey-server) systemctl disable --quiet "$package.service" || true ;;
        esac
    done
fi
