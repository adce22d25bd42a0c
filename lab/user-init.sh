#!/bin/bash
# The first program of a user-mode kernel, on this machine's file system: makes what an init makes, as virtme-ng's does for
# the stock kernel, runs the script of the boot, and switches off. LAB_SCRIPT, LAB_SHARED and LAB_TALKS come from the
# kernel's command line. What it says itself goes to the kernel's log.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

mount_file_systems() {
  mount -t proc proc /proc
  mount -t sysfs sys /sys
  mkdir -p /dev/pts /dev/shm
  mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /dev/pts
  mount -t tmpfs -o mode=1777 shm /dev/shm
  mount -t tmpfs -o mode=755 run /run
  mount -t cgroup2 cgroup /sys/fs/cgroup
  mkdir /run/stock-modules # for guests, which run the stock kernel
  mount --bind /lib/modules /run/stock-modules
  mount --bind /usr/lib/uml/modules /lib/modules
  modprobe -a overlay configfs
  mount -t configfs configfs /sys/kernel/config
  local folder
  for folder in etc var; do
    mkdir -p "/run/overlay/$folder"/{upper,work}
    mount -t overlay -o "lowerdir=/$folder,upperdir=/run/overlay/$folder/upper,workdir=/run/overlay/$folder/work" overlay "/$folder"
  done
  mkdir /run/turns
  mount -t hostfs -o "$LAB_SHARED" turns /run/turns
}

link_descriptors() {
  ln -sf /proc/self/fd /dev/fd
  ln -sf fd/0 /dev/stdin
  ln -sf fd/1 /dev/stdout
  ln -sf fd/2 /dev/stderr
}

mount_file_systems
link_descriptors
hostname lab
/lib/systemd/systemd-udevd --daemon
if ((LAB_TALKS)); then
  setsid --ctty --wait "$LAB_SCRIPT" <>/dev/tty1 >&0 2>&1
else
  stty -F /dev/tty1 -opost
  "$LAB_SCRIPT" 2>&1 </dev/null | cat >/dev/tty1
fi
sync
echo o >/proc/sysrq-trigger
sleep 60
