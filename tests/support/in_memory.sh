#!/bin/bash
# in_memory.sh COMMAND...
#
# Runs COMMAND with a directory for temporary files, TMPDIR, that is in memory and that no other process of this machine
# sees. Installed Debians, databases and ten thousand small files cost a disk, and the processor for it, more than most
# tests do. As Debian 13 has /tmp; where there is not enough memory, or for anybody but root, TMPDIR stays as it is.
set -euo pipefail

NEEDED=$((8 << 20)) # KiB that must be there

available() { # KiB, also in a container that may use less than there is
    local kib limit used
    kib=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)
    limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
    used=$(cat /sys/fs/cgroup/memory.current 2>/dev/null || echo 0)
    if [ "$limit" != max ] && [ $(((limit - used) >> 10)) -lt "$kib" ]; then kib=$(((limit - used) >> 10)); fi
    echo "$kib"
}

if [ "$(id -u)" != 0 ] || [ "$(available)" -lt $NEEDED ] || ! unshare --mount true 2>/dev/null; then
    exec "$@"
fi
directory=$(mktemp --directory --tmpdir memory.XXXXXX)
trap 'rmdir "$directory"' EXIT
# shellcheck disable=SC2016 # the inner shell expands it
TMPDIR=$directory unshare --mount --propagation private bash -c \
    'mount -t tmpfs -o mode=1777 tmpfs "$TMPDIR" && exec "$@"' in_memory.sh "$@"
