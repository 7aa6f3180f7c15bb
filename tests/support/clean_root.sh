#!/bin/bash
# clean_root.sh ROOT MOUNTPOINT SHARED INIT...
#
# Runs INIT as process 1 of a machine of its own (processes, mounts, network, cgroups) whose file system is ROOT, with all
# changes kept in memory and SHARED at /shared. Prints the process id of the parent of INIT. Ends with INIT, or when it is
# told to, and leaves nothing behind. Is to be called in a mount namespace that is not the host's.
set -euo pipefail
root=$1 mountpoint=$2 shared=$3
shift 3

mount -t tmpfs none "$mountpoint"
cd "$mountpoint"
mkdir upper work machine cgroup
mount -t overlay none -o "lowerdir=$root,upperdir=upper,workdir=work" machine
mount -t cgroup2 none cgroup
group=cgroup/policyd-rate-limit-test-$$
mkdir "$group"
echo $$ >"$group/cgroup.procs"

cat >enter <<'END'
set -euo pipefail
umount cgroup
cd machine
mount -t proc none proc
mount -t sysfs none sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 none run
mount -t tmpfs -o mode=755 none dev
for device in null zero full random urandom tty; do cp -a "/dev/$device" dev; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 none dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p shared host
mount --bind "$1" shared
ip link set lo up
pivot_root . host
umount --lazy /host
rmdir /host
shift
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
END

unshare --mount --pid --net --ipc --uts --cgroup --fork --kill-child bash enter "$shared" "$@" &
child=$!
trap 'kill -KILL $child 2>/dev/null || true' TERM
echo $child
wait $child 2>/dev/null || true
trap '' TERM
echo $$ >cgroup/cgroup.procs
for _ in {1..100}; do # the kernel takes a moment to end the processes of a namespace
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && exit
    sleep 0.1
done
echo "$group is left behind" >&2
