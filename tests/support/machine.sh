#!/bin/bash
# machine.sh FILES SHARED NETWORK INIT...
#
# Runs INIT as process 1 of a machine of its own (processes, mounts, cgroups) whose file system is FILES, with SHARED at
# /shared. NETWORK is "own" for nothing but a loopback interface, or "host" for the network of this machine. Prints the
# process id of the parent of INIT to descriptor 3. Ends with INIT, whose status it has, or on SIGTERM, and leaves no
# process and no cgroup behind. Call it in a mount namespace other than the host's, in a directory that may be written to.
set -euo pipefail
files=$1 shared=$2 network=$3
shift 3

mkdir cgroup
mount -t cgroup2 none cgroup
group=cgroup/policyd-rate-limit-test-$$
mkdir "$group"
echo $$ >"$group/cgroup.procs"
mount --bind "$files" "$files"

cat >enter <<'END'
set -euo pipefail
umount cgroup
cd "$1"
mount -t proc none proc
mount -t sysfs none sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 none run
mount -t tmpfs -o mode=755 none dev
for device in null zero full random urandom tty; do cp -a "/dev/$device" dev; done
mkdir dev/pts
mkdir -m 1777 dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 none dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p shared host
mount --bind "$2" shared
[ "$3" = host ] || ip link set lo up
pivot_root . host
umount --lazy /host
rmdir /host
shift 3
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
END

own=(--mount --pid --ipc --uts --cgroup)
[ "$network" = host ] || own+=(--net)
unshare "${own[@]}" --fork --kill-child bash enter "$files" "$shared" "$network" "$@" 3>&- &
child=$!
trap 'kill -KILL $child 2>/dev/null || true' TERM
{ echo $child >&3; } 2>/dev/null || true
status=0
wait $child 2>/dev/null || status=$?
trap '' TERM
echo $$ >cgroup/cgroup.procs
for _ in {1..100}; do # the kernel takes a moment to end the processes of a namespace
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && exit $status
    sleep 0.1
done
echo "$group is left behind" >&2
exit $status
