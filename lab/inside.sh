#!/usr/bin/env bash
# Runs as root in the lab VM: puts the images in their places, then runs the given command and leaves its status in a file.
set -euo pipefail
exec 3>&- 4>&- 5>&- 6>&- # what the VM's init left open; LVM complains of it
project=$1
library=$2
python_disk=$3
project_disk=$4
told=$5
shift 5

place_images() {
  mkdir -p /run/lab/{cache,python,project,home}
  mount --bind "$project/.cache" /run/lab/cache
  mount -o ro "$python_disk" /run/lab/python
  mount -o ro "$project_disk" /run/lab/project
  mount -t tmpfs -o mode=1777 tmp /tmp # the machine's own is none of our business
  mkdir -p "$project"                  # it may have been in there
  mount --bind /run/lab/project "$project"
  mount --bind /run/lab/cache "$project/.cache"
  mount --bind /run/lab/python/venv "$project/.venv"
  mount --bind /run/lab/python/stdlib "$library"
}

# Rules of udev's that start a handful of programs for each new disk: here they take ten seconds. Nobody asks for what
# they would find out.
mask_slow_rules() {
  local name
  mkdir -p /run/udev/rules.d
  for name in 55-scsi-sg3_id 58-scsi-sg3_symlink 60-multipath 69-lvm; do
    ln -sf /dev/null "/run/udev/rules.d/$name.rules"
  done
  udevadm control --reload
}

prepare_system() {
  mkdir -p /run/lock /run/dbus /var/lib/nfs
  mkdir -p /run/netns # as the first `ip netns` would, for good
  mount --bind /run/netns /run/netns
  mount --make-shared /run/netns
  ip link set lo up
  sysctl -q -w kernel.sysrq=1 kernel.hung_task_timeout_secs=0 2>/dev/null || true
}

place_images
mask_slow_rules
prepare_system
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/lab/home LC_ALL=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
cd "$project"
echo "lab: booted in $(cut -d' ' -f1 /proc/uptime) s, Linux $(uname -r)"
status=0
"$@" || status=$?
echo "$status" >"$told"
exit "$status"
