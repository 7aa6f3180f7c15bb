#!/bin/bash
# clean_root.sh ROOT MOUNTPOINT SHARED INIT...
#
# Runs INIT as process 1 of a machine of its own, without a network, whose file system is ROOT, with all changes kept in
# memory; see machine.sh. Prints the process id of the parent of INIT.
set -euo pipefail
scripts=$(dirname "$(realpath "$0")")
root=$1 mountpoint=$2 shared=$3
shift 3

mount -t tmpfs none "$mountpoint"
cd "$mountpoint"
mkdir upper work machine
mount -t overlay none -o "lowerdir=$root,upperdir=upper,workdir=work" machine
exec bash "$scripts/machine.sh" machine "$shared" own "$@" 3>&1
