#!/usr/bin/python3
"""A small oVirt guest agent for Linux guests that have none: one file, the standard library, Python 3.7 or later.

It tells the host what it sees over the VM's virtio-serial channel, one JSON object a line, and does what it is told:
locking sessions, ending them, shutting down. It needs root for that, and nothing to be configured. Logging users in
takes a plug-in of the display manager, which it has not: it says so on standard error.
"""

import argparse
import errno
import glob
import json
import os
import platform
import select
import socket
import subprocess
import sys
import time

API_VERSION = 3
DEVICES = ("/dev/virtio-ports/ovirt-guest-agent.0", "/dev/virtio-ports/com.redhat.rhevm.vdsm")
HEARTBEAT_S = 5.0
REPORT_S = 60.0
RETRY_S = 5.0
LONGEST_LINE = 1 << 20
COMMAND_S = 10.0
PACKAGES = ("kernel", "linux-image", "qemu-guest-agent", "spice-vdagent", "ovirt-guest-agent", "cloud-init", "xserver")
NO_DISKS = ("autofs", "cgroup", "cgroup2", "devtmpfs", "overlay", "proc", "squashfs", "sysfs", "tmpfs", "efivarfs")


def read_text(path):
    """What a file says; empty when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def ask(*command):
    """What a command prints; empty when it fails or is not there."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=COMMAND_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def read_numbers(path):
    """The numbers of /proc/meminfo and its like, by name."""
    pairs = (line.replace(":", " ").split()[:2] for line in read_text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


class MemoryMeter:
    """Memory now, and rates since the last look."""

    def __init__(self):
        self._counters = read_numbers("/proc/vmstat")
        self._at_s = time.monotonic()

    def look(self):
        """`memory-stat`: KiB, and events a second."""
        sizes, counters, now_s = read_numbers("/proc/meminfo"), read_numbers("/proc/vmstat"), time.monotonic()
        seconds = max(now_s - self._at_s, 0.001)
        rates = {
            name: int((counters.get(key, 0) - self._counters.get(key, 0)) / seconds) for name, key in RATES.items()
        }
        self._counters, self._at_s = counters, now_s
        return {**{name: sizes.get(key, 0) for name, key in SIZES.items()}, **rates}


SIZES = {"mem_total": "MemTotal", "mem_unused": "MemFree", "mem_buffers": "Buffers", "mem_cached": "Cached"}
RATES = {"swap_in": "pswpin", "swap_out": "pswpout", "pageflt": "pgfault", "majflt": "pgmajfault"}


def describe_os():
    """`os-info`."""
    pairs = (line.partition("=") for line in read_text("/etc/os-release").splitlines())
    release = {key: value.strip("\"'") for key, _, value in pairs}
    return {
        "type": "linux",
        "distribution": release.get("NAME", ""),
        "version": release.get("VERSION_ID", ""),
        "codename": release.get("VERSION_CODENAME", ""),
        "arch": platform.machine(),
        "kernel": platform.release(),
    }


def describe_timezone():
    """`timezone`: minutes from UTC."""
    return {"zone": time.strftime("%Z"), "offset": time.localtime().tm_gmtoff // 60}


def list_interfaces():
    """Network interfaces; their addresses need iproute2."""
    found = []
    for link in json.loads(ask("ip", "-json", "address") or "[]"):
        addresses = link.get("addr_info", [])
        by_family = {
            family: [one["local"] for one in addresses if one.get("family") == family and "local" in one]
            for family in ("inet", "inet6")
        }
        found.append({"name": link.get("ifname", ""), "hw": link.get("address", ""), **by_family})
    return found


def list_applications():
    """Packages that matter to who runs VMs."""
    listed = ask("dpkg-query", "-W", "-f", "${Package}-${Version}\n") or ask("rpm", "-qa")
    return sorted(name for name in listed.splitlines() if name.startswith(PACKAGES))


def find_user():
    """Who is logged in."""
    users = ask("who").split()[:1] or ask("loginctl", "--no-legend", "list-users").split()[1:2]
    return users[0] if users else ""


def list_mounts():
    """`disks` of `disks-usage`: file systems with their sizes."""
    found = {}
    for line in read_text("/proc/self/mounts").splitlines():
        device, path, kind = line.split()[:3]
        if kind in NO_DISKS or not device.startswith("/") or device in found:
            continue
        try:
            usage = os.statvfs(path.replace("\\040", " "))
        except OSError:
            continue
        total = usage.f_blocks * usage.f_frsize
        used = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
        found[device] = {"path": path, "total": total, "used": used, "fs": kind}
    return list(found.values())


def map_disks():
    """`mapping` of `disks-usage`: serials of disks and their names here."""
    mapping = {}
    for path in glob.glob("/sys/block/*/serial") + glob.glob("/sys/block/*/device/serial"):
        serial = read_text(path).strip()
        if serial:
            mapping[serial] = {"name": "/dev/" + path.split("/")[3]}
    for link in glob.glob("/dev/disk/by-id/*-*"):
        device = os.path.basename(os.path.realpath(link))
        if os.path.isdir("/sys/block/" + device):
            mapping.setdefault(os.path.basename(link).partition("-")[2], {"name": "/dev/" + device})
    return mapping


def complain(text):
    """Tell the guest's journal."""
    sys.stderr.write(f"vdsm-guest-agent: {text}\n")


class Agent:
    """Talks to the host over an open file descriptor until the host is gone for good."""

    def __init__(self, descriptor, run=ask):
        self._descriptor = descriptor
        self._run = run
        self._meter = MemoryMeter()
        self._rest = b""
        self._told = {}
        os.set_blocking(descriptor, False)

    def serve(self):
        """Report and obey; returns when the channel was closed for good."""
        self.report(everything=True)
        beat_s = report_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            if now_s >= beat_s:
                self.beat()
                beat_s = now_s + HEARTBEAT_S
            if now_s >= report_s:
                self.report()
                report_s = now_s + REPORT_S
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, min(beat_s, report_s) - time.monotonic()))
            if ready and not self.hear():
                return

    def beat(self):
        """Tell that the guest lives."""
        memory = self._meter.look()
        available = read_numbers("/proc/meminfo").get("MemAvailable", memory["mem_unused"])
        self.say("heartbeat", {"free-ram": available // 1024, "memory-stat": memory, "apiVersion": API_VERSION})

    def report(self, everything=False):
        """Tell what changed since the last time, or all."""
        news = {
            "host-name": {"name": socket.gethostname()},
            "fqdn": {"fqdn": socket.getfqdn()},
            "os-version": {"version": platform.release()},
            "os-info": describe_os(),
            "timezone": describe_timezone(),
            "network-interfaces": {"interfaces": list_interfaces()},
            "applications": {"applications": list_applications()},
            "active-user": {"name": find_user()},
            "disks-usage": {"disks": list_mounts(), "mapping": map_disks()},
            "number-of-cpus": {"count": os.cpu_count() or 1},
        }
        for name, arguments in news.items():
            if (everything or self._told.get(name) != arguments) and self.say(name, arguments):
                self._told[name] = arguments

    def say(self, name, arguments=None):
        """Send one message; whether the host takes it. Nobody may listen, and then nothing is kept for later."""
        rest = json.dumps({"__name__": name, **(arguments or {})}).encode() + b"\n"
        try:
            while rest:
                _, ready, _ = select.select([], [self._descriptor], [], COMMAND_S)
                if not ready:
                    return False
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPIPE, errno.ENODEV):
                raise
            return False
        return True

    def hear(self):
        """Read what the host says and obey; whether the channel is still there."""
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            self._rest = b""
        for line in lines:
            try:
                message = json.loads(line)
                self.obey(message.pop("__name__"), message)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                complain(f"a message was not understood: {error}")
        return True

    def obey(self, name, arguments):
        """Do what one message says."""
        if name == "refresh":
            self.beat()
            self.report(everything=True)
        elif name == "lock-screen":
            self._run("loginctl", "lock-sessions")
            self.say("session-lock")
        elif name == "log-off":
            user = find_user()
            if user:
                self._run("loginctl", "terminate-user", user)
            self.say("session-logoff")
        elif name == "shutdown":
            minutes = -(-int(arguments.get("timeout", 0)) // 60)
            kind = "-r" if str(arguments.get("reboot")).lower() == "true" else "-P"
            self.say("session-shutdown")
            self._run("shutdown", kind, f"+{minutes}", str(arguments.get("message", "")))
        elif name == "set-number-of-cpus":
            for path in glob.glob("/sys/devices/system/cpu/cpu*/online"):
                if (
                    int(path.split("/cpu")[-1].split("/")[0]) < int(arguments["count"])
                    and read_text(path).strip() == "0"
                ):
                    with open(path, "w", encoding="ascii") as switch:
                        switch.write("1")
            self.report()
        elif name == "lifecycle-event":
            if "reply_id" in arguments:
                self.say("completion", {"reply_id": arguments["reply_id"]})
        elif name != "api-version":
            complain(f"cannot do what the host asks for: {name[:100]}")


def main():
    """Serve the channel of this VM until told to end; waits for a host that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="the channel (by default the one that the VM has)")
    given = parser.parse_args().device
    devices = [given] if given else [path for path in DEVICES if os.path.exists(path)]
    if not devices:
        sys.exit("vdsm-guest-agent: this VM has no channel for it: " + " nor ".join(DEVICES))
    while True:
        descriptor = os.open(devices[0], os.O_RDWR)
        try:
            Agent(descriptor).serve()
        finally:
            os.close(descriptor)
        time.sleep(RETRY_S)


if __name__ == "__main__":
    main()
