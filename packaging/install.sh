#!/bin/bash
# install.sh install|uninstall|purge
#
# Puts this checkout, or this unpacked sdist, on the machine: what `make install` does. What it reads from the environment:
#
#   DESTDIR   where to stage everything for a package of a distribution: no account is made then, nothing is told to systemd
#   PREFIX    /usr/local: the command, manual pages and shell completions
#   VENV      /opt/policyd-rate-limit: the virtual environment that the daemon runs in
#   UNITDIR   /etc/systemd/system: the units of systemd; those of an earlier installation by hand are replaced
#   EXTRAS    drivers of further databases, geoip, zstd and web, as in postgresql,mysql,redis,geoip,web
#   PYTHON    the interpreter, which every user must be able to run; unset: the first recent one of the system's own
#
# The configuration and the counts are the administrator's: `uninstall` leaves them alone, `purge` removes them.
set -euo pipefail
umask 022
cd "$(dirname "$0")/.."
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
VENV=${VENV:-/opt/policyd-rate-limit}
UNITDIR=${UNITDIR:-/etc/systemd/system}
EXTRAS=${EXTRAS:-}

name=policyd-rate-limit
user=$name
command=$PREFIX/bin/$name
init=/etc/init.d/$name
cron=/etc/cron.daily/$name
replaced=$PREFIX/lib/$name/replaced # what was in the place of these two, and is dpkg's
state=/var/lib/$name
units=("$name".service "$name".socket "$name"-clean.service "$name"-clean.timer)
web_units=("$name"-web.service "$name"-web.socket) # with EXTRAS=web
completions=(
    "bash $PREFIX/share/bash-completion/completions/$name"
    "zsh $PREFIX/share/zsh/site-functions/_$name"
    "fish $PREFIX/share/fish/vendor_completions.d/$name.fish"
)

die() {
    echo "$*" >&2
    exit 1
}

[[ $EXTRAS =~ ^[a-z,]*$ ]] || die "EXTRAS are names such as postgresql or geoip, with commas between them: $EXTRAS"
for path in "$PREFIX" "$VENV" "$UNITDIR" ${DESTDIR:+"$DESTDIR"}; do
    # They go into the first lines of scripts and into units.
    [[ $path =~ ^/[A-Za-z0-9/._+~-]*$ ]] || die "not an absolute path of letters, digits and /._+~-: $path"
done

staged() {
    [ -n "$DESTDIR" ]
}

is_installed_as_package() {
    ! staged && [ "$(dpkg-query --show --showformat='${db:Status-Status}' $name 2>/dev/null)" = installed ]
}

booted_with_systemd() {
    ! staged && [ -d /run/systemd/system ]
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
} 2>/dev/null

# Not the one in root's path, which may be root's own. And the program itself, such as /usr/bin/python3.11, not a link to it: an
# upgrade of Debian points /usr/bin/python3 at another version, but leaves the one before until `apt autoremove`.
interpreter() {
    local python
    if [ -n "${PYTHON:-}" ]; then
        is_recent "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or later"
        readlink -f "$(command -v "$PYTHON")"
        return
    fi
    for python in /usr/bin/python3{,.14,.13,.12,.11} /usr/local/bin/python3{,.14,.13,.12,.11}; do
        if is_recent "$python"; then
            readlink -f "$python"
            return
        fi
    done
    die 'No Python 3.11 or later in /usr/bin or /usr/local/bin; PYTHON=... names another. Debian 12 and later: apt-get install python3-venv'
}

make_account() {
    getent group $user >/dev/null || groupadd --system $user
    getent passwd $user >/dev/null ||
        useradd --system --gid $user --home-dir $state --no-create-home --shell /usr/sbin/nologin $user
    [ -d $state ] || install -d -o $user -g $user -m 0750 $state
}

make_venv() {
    local venv=$DESTDIR$VENV python
    python=$(interpreter)
    if [ "$(readlink -f "$venv/bin/python")" != "$python" ] || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            packaging/debian-install.sh "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
        "$python" -m venv --clear "$venv"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade ".${EXTRAS:+[$EXTRAS]}"
    if staged; then # scripts and pyvenv.cfg name the place that they were made in
        grep -rlIZ --fixed-strings "$venv" "$venv"/bin "$venv"/pyvenv.cfg | xargs -0r sed -i "s|$venv|$VENV|g"
    elif ! setpriv --reuid $user --regid $user --clear-groups "$VENV/bin/$name" --version >/dev/null; then
        die "User $user cannot run $VENV/bin/$name: is $(readlink -f "$VENV/bin/python") readable for everybody?"
    fi
}

put() { # put MODE FILE PATH: a file that names the command
    install -D -m "$1" /dev/null "$DESTDIR$3"
    sed "s|/usr/local/bin/$name|$command|g" "$2" >"$DESTDIR$3"
}

# A package that was removed and not purged still has its files in /etc, and wants them back when it is installed again.
is_conffile() { # PATH
    ! staged && [ -x /usr/bin/dpkg-query ] &&
        dpkg-query --show --showformat='${Conffiles}' $name 2>/dev/null | grep --quiet --fixed-strings " $1 "
}

put_over() { # MODE FILE PATH: as put, and keep what dpkg has there
    if [ -e "$3" ] && is_conffile "$3" && [ ! -e "$replaced/${3//\//+}" ]; then
        install -d "$replaced"
        cp --preserve "$3" "$replaced/${3//\//+}"
    fi
    put "$@"
}

take_away() { # PATH, which put_over has put there; false when something is left in its place
    if is_conffile "$1"; then
        [ ! -e "$replaced/${1//\//+}" ] || cp --preserve "$replaced/${1//\//+}" "$1"
        return 1
    fi
    rm -f "$DESTDIR$1"
}

put_command() {
    rm -f "$DESTDIR$command" # it was a link into the virtual environment once
    install -D -m 0755 /dev/null "$DESTDIR$command"
    sed -e "s|^venv=.*|venv=$VENV|" -e "s|^python=.*|python=$(interpreter)|" -e "s|^extras=.*|extras=$EXTRAS|" \
        packaging/command >"$DESTDIR$command"
}

put_configuration() {
    local sample=src/policyd_rate_limit/config/samples/$name.conf target=$DESTDIR/etc/$name.conf
    [ ! -e "$target" ] && [ ! -e "$DESTDIR/etc/$name.yaml" ] || return 0
    install -D -m 0640 $sample "$target" # there may be passwords in it one day
    staged || chgrp $user "$target"
    echo "The configuration is $target."
}

install_all() {
    if ! staged; then
        if is_installed_as_package; then
            die "The Debian package $name is installed. Remove it first: apt-get remove $name leaves configuration and counts."
        fi
        make_account
    fi
    make_venv
    put_command
    put_over 0755 packaging/$name.init $init
    put_over 0755 packaging/$name.cron $cron
    local installed=("${units[@]}")
    if [[ ,$EXTRAS, == *,web,* ]]; then installed+=("${web_units[@]}"); fi
    for unit in "${installed[@]}"; do
        put 0644 "packaging/$unit" "$UNITDIR/$unit"
    done
    for page in docs/man/*.[1-9]; do
        [ -e "$page" ] || continue # the pattern itself
        install -D -m 0644 "$page" "$DESTDIR$PREFIX/share/man/man${page##*.}/${page##*/}"
    done
    for completion in "${completions[@]}"; do
        read -r shell path <<<"$completion"
        install -D -m 0644 /dev/null "$DESTDIR$path"
        "$DESTDIR$VENV/bin/python" -m policyd_rate_limit completion "$shell" >"$DESTDIR$path"
    done
    put_configuration
    if booted_with_systemd; then
        systemctl daemon-reload
        echo "To start it: systemctl enable --now $name.socket $name.service $name-clean.timer; after an upgrade: systemctl restart $name"
        if [[ ,$EXTRAS, == *,web,* ]]; then echo "The web page: $name web-user add NAME, then systemctl enable --now $name-web.socket"; fi
    elif ! staged; then
        echo "To start it: $init start; at each boot: update-rc.d $name defaults"
    fi
}

uninstall_all() {
    if booted_with_systemd; then
        systemctl disable --now --quiet "${units[@]}" "${web_units[@]}" 2>/dev/null || true # those that were never enabled
    elif ! staged && [ -x $init ]; then
        $init stop
    fi
    if take_away $init && ! staged && [ -x /usr/sbin/update-rc.d ]; then update-rc.d $name remove; fi
    take_away $cron || true
    rm -rf "$DESTDIR$PREFIX/lib/$name"
    [ ! -e "$DESTDIR$VENV/pyvenv.cfg" ] || rm -rf "$DESTDIR$VENV"
    rm -f "$DESTDIR$command" "${units[@]/#/$DESTDIR$UNITDIR/}" "${web_units[@]/#/$DESTDIR$UNITDIR/}"
    rm -f "$DESTDIR$PREFIX"/share/man/man[1-9]/$name{,.conf,.yaml}.[1-9]
    for completion in "${completions[@]}"; do
        rm -f "$DESTDIR${completion#* }"
    done
    ! booted_with_systemd || systemctl daemon-reload
    if is_installed_as_package; then
        echo "The Debian package $name is installed and stopped. To start it: apt-get install --reinstall $name" >&2
    fi
}

purge_all() {
    ! is_installed_as_package || die "The Debian package $name is installed; its configuration and counts: apt-get purge $name"
    uninstall_all
    for file in /etc/$name.{conf,yaml}; do
        if is_conffile "$file"; then
            echo "$file is of the Debian package $name, which was removed: dpkg --purge $name"
        else
            rm -f "$DESTDIR$file"
        fi
    done
    rm -f "$DESTDIR/etc/$name-web.accounts"
    rm -f "$DESTDIR/var/lib/systemd/timers/stamp-$name-clean.timer"
    rm -rf "$DESTDIR$state" "$DESTDIR/var/run/$name" "$DESTDIR/var/spool/postfix/ratelimit"
    if ! staged; then
        if getent passwd $user >/dev/null; then userdel $user; fi
        if getent group $user >/dev/null; then groupdel $user; fi
    fi
}

case ${1:-} in
    install | uninstall | purge)
        staged || [ "$(id -u)" = 0 ] || die "Only root can do that: sudo make $1"
        "$1_all"
        ;;
    *) die 'install.sh install|uninstall|purge' ;;
esac
