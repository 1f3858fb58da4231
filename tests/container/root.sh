#!/bin/sh
# Builds the root of a container and becomes `hotproxy run` in it, as PID 1.
#
#   root.sh SCRATCH SHM_SIZE PYTHON SOURCE TARGET [SOURCE TARGET]...      in new mount, pid, ipc and uts namespaces
#
# The root is this host's own, read-only; each SOURCE of the host is at TARGET, read-only too. Written to can be
# /run/hotproxy alone, and SHM_SIZE of /dev/shm. The process is of a user without a name and has no capability.
set -eu
scratch=$1 size=$2 python=$3
shift 3
root=$scratch/root
user=65532
mount --make-rprivate /
mount -t tmpfs -o mode=755 container "$scratch"
mkdir "$scratch/written" "$scratch/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$scratch/written,workdir=$scratch/work" container "$root"
while [ $# -gt 0 ]; do
  mkdir -p "$root$2"
  mount --bind "$1" "$root$2"
  mount -o remount,bind,ro "$root$2"
  shift 2
done
# The interpreter may lie in somebody's home.
above=$python
while above=$(dirname "$above") && [ "$above" != / ]; do chmod a+x "$root$above"; done
cd "$root"
mkdir -p run/hotproxy .host
mount -o remount,ro "$root"

mount -t proc proc proc
mount -t tmpfs -o "mode=750,uid=$user,gid=$user" run run/hotproxy
mount -t tmpfs -o mode=755 dev dev
mkdir dev/shm
mount -t tmpfs -o "mode=1777,size=$size" shm dev/shm
for node in null zero full random urandom; do
  : >"dev/$node"
  mount --bind "/dev/$node" "dev/$node"
done
ln -s /proc/self/fd dev/fd
mount -o remount,ro dev

pivot_root . .host
umount -l /.host
echo "the root is built"
exec setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs --bounding-set=-all --pdeathsig KILL \
  env -i PATH=/usr/bin:/bin LANG=C.UTF-8 \
  /opt/hotproxy/bin/python -I -m hotproxy.cli.main run -c /etc/hotproxy/hotproxy.yaml
