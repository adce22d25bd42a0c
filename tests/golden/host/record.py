"""Record the files of this machine that the host's figures are made of: `record.py > MACHINE.txt`.

One section for each file: `== PATH` and its text. Symbolic links, `-> PATH TARGET`, are added by hand. Look through the
result before committing it: the kernel's command line may tell more than it should.
"""

import sys
from glob import glob
from pathlib import Path

PATTERNS = """
/etc/os-release /etc/debian_version
/proc/cmdline /proc/cpuinfo /proc/loadavg /proc/meminfo /proc/self/stat /proc/stat /proc/uptime
/proc/sys/kernel/osrelease /proc/sys/kernel/numa_balancing
/sys/class/dmi/id/* /sys/class/fc_host/*/*_name
/sys/devices/system/cpu/online /sys/devices/system/cpu/cpu*/topology/physical_package_id
/sys/devices/system/cpu/cpu*/topology/die_id /sys/devices/system/cpu/cpu*/topology/core_id
/sys/devices/system/cpu/vulnerabilities/*
/sys/devices/system/node/node*/cpulist /sys/devices/system/node/node*/meminfo /sys/devices/system/node/node*/distance
/sys/devices/system/node/node*/hugepages/*/*_hugepages
/sys/fs/selinux/enforce /sys/kernel/kexec_crash_loaded /sys/kernel/mm/hugepages/*/*_hugepages
/sys/kernel/mm/ksm/run /sys/kernel/mm/ksm/pages_to_scan /sys/kernel/mm/ksm/merge_across_nodes
/sys/kernel/mm/ksm/pages_sharing /sys/kernel/mm/transparent_hugepage/enabled
""".split()
KEEP = {"/proc/stat": ("cpu", "btime")}

if __name__ == "__main__":
    for path in sorted(path for pattern in PATTERNS for path in glob(pattern)):
        try:
            lines = Path(path).read_text().strip().splitlines()
        except OSError:
            continue
        kept = KEEP.get(path, ("",))
        sys.stdout.write("\n".join([f"== {path}", *(line for line in lines if line.startswith(kept)), ""]))
