#!/bin/sh
# Builds the root of a machine whose PID 1 is a real systemd, and becomes that systemd.
#
#   root.sh SCRATCH [SOURCE TARGET]...      in new mount, pid, cgroup, net, ipc and uts namespaces (machine.py)
#
# The root is this host's own under a layer of memory that takes every write; each SOURCE of the host is at TARGET,
# read-only. What could harm the host is not there: /proc/sys and /sys can't be written to, there is no sysrq, and nobody
# may set the time, load modules or reboot.
set -eu
scratch=$1
shift
root=$scratch/root
mount --make-rprivate /
mount -t tmpfs -o size=1g,mode=755 machine "$scratch"
mkdir "$scratch/written" "$scratch/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$scratch/written,workdir=$scratch/work" machine "$root"

while [ $# -gt 0 ]; do
  mkdir -p "$root$2"
  mount --bind "$1" "$root$2"
  mount -o remount,bind,ro "$root$2"
  shift 2
done
cd "$root"

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
if [ -e proc/sysrq-trigger ]; then mount --bind /dev/null proc/sysrq-trigger; fi
mount -t sysfs sysfs sys
mount -o remount,bind,ro sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=755 dev dev
mkdir dev/shm dev/pts dev/mqueue
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for node in null zero full random urandom tty; do
  : >"dev/$node"
  mount --bind "/dev/$node" "dev/$node"
done
: >dev/console
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr

# Of all that this host starts, its journal alone.
rm -rf etc/fstab etc/systemd/system/*.wants etc/systemd/system/*.requires lib/systemd/system/*.target.wants
mkdir lib/systemd/system/sockets.target.wants lib/systemd/system/sysinit.target.wants etc/systemd/journald.conf.d
ln -s ../systemd-journald.socket ../systemd-journald-dev-log.socket lib/systemd/system/sockets.target.wants/
ln -s ../systemd-journald.service lib/systemd/system/sysinit.target.wants/
printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\n' >etc/systemd/journald.conf.d/machine.conf
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\n' >etc/systemd/system/machine.target
echo 0123456789abcdef0123456789abcdef >etc/machine-id

mkdir .host
pivot_root . .host
umount -l /.host
echo "the root is built"
# Without these in the bounding set no process of the machine gets them, whatever its uid.
exec setpriv --bounding-set=-sys_boot,-sys_time,-sys_module,-sys_rawio \
  env -i container=hotproxy-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
  /lib/systemd/systemd --system --unit=machine.target --log-target=journal --show-status=no
