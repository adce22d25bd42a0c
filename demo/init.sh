#!/bin/sh
# The whole operating system of the demo guest: load drivers, say who we are, offer a shell, obey the power button.
export PATH=/bin PS1='guest# ' HOME=/
busybox mount -t proc proc /proc
busybox --install -s /bin # finds itself through /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod "/modules/$module" 2>/dev/null; done
ip link set lo up

say() {
  echo "guest: $*" >/dev/ttyS0
  echo "guest: $*" >/dev/tty1
}

format_size() { # of so many sectors of 512 bytes
  if [ $(($1 % 2097152)) = 0 ]; then echo "$(($1 / 2097152)) GiB"; else echo "$(($1 / 2048)) MiB"; fi
}

list_disks() {
  for disk in /sys/block/vd* /sys/block/sd*; do
    [ -e "$disk" ] && say "${disk##*/} $(format_size "$(cat "$disk/size")")"
  done
}

name=$(sed -n 's/.*\bguest=\([^ ]*\).*/\1/p' /proc/cmdline)
hostname "${name:-guest}"
printf '\033[2J\033[H\033[1;32m' >/dev/tty1
say "I am $(hostname), Linux $(uname -r)"
printf '\033[0m' >/dev/tty1
[ -e /sys/class/dmi/id/product_uuid ] && say "machine $(cat /sys/class/dmi/id/product_uuid)"
tries=30 # tenths of a second that slow disks get to appear
while [ $tries -gt 0 ] && ! ls -d /sys/block/vd* /sys/block/sd* >/dev/null 2>&1; do tries=$((tries - 1)); sleep 0.1; done
list_disks
for card in /sys/class/net/*; do
  [ "${card##*/}" = lo ] || say "${card##*/} $(cat "$card/address")"
done
acpid -l /dev/null -p /tmp/acpid.pid 2>/dev/null # runs /etc/acpi/PWRF/00000080 when the power button is pressed
say "ready"
while :; do setsid cttyhack sh -l </dev/ttyS0 >/dev/ttyS0 2>&1; sleep 1; done
