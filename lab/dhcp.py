"""Who gives out addresses on a link: DHCPv4, DHCPv6 and router advertisements, and a client that asks for one."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

from lab.commands import PartFailed, run, wait_for
from lab.networks import Link

_LEASE_S = 120  # the shortest that dnsmasq gives
_CLIENT_TIMEOUT_S = 60.0
# dhclient's own script would also write resolv.conf. It leaves the link up and without addresses when it ends.
_CLIENT_SCRIPT = """#!/bin/sh
case $reason in
  PREINIT) ip link set dev $interface up ;;
  BOUND|REBOOT) ip addr replace $new_ip_address/$new_subnet_mask dev $interface ;;
  BOUND6) ip addr replace $new_ip6_address/${new_ip6_prefixlen:-128} dev $interface nodad ;;
esac
"""


@contextmanager
def address_server(
    link: Link, *, ipv4: str = "", ipv6: str = "", stateful: bool = True, router: bool = True
) -> Iterator[None]:
    """Serve what is asked for on a link of another namespace; the server's own addresses are given and put on it.

    `ipv4="198.18.5.1/24"`: DHCPv4, addresses .100 to .199. `ipv6="fd00:198:18:5::1/64"`: DHCPv6, ::100 to ::1ff, and,
    with `router`, advertisements of the prefix; without `stateful` only those, so that hosts make their own addresses.
    Leases are for two minutes.
    """
    assert link.namespace is not None
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--no-hosts", "--no-resolv"]
    command += [
        "--user=root",
        "--pid-file=",
        "--leasefile-ro",
        "--dhcp-authoritative",
        "--no-ping",
        "--bind-interfaces",
    ]
    command += [f"--interface={link.name}", "--except-interface=lo", "--quiet-dhcp", "--quiet-dhcp6", "--quiet-ra"]
    command += ["--log-facility=/dev/null"]
    ports = []
    if ipv4:
        link.add_addresses(ipv4)
        network = IPv4Interface(ipv4).network
        command.append(f"--dhcp-range={network[100]},{network[199]},{network.netmask},{_LEASE_S}")
        ports.append(("udp", 67))
    if ipv6:
        link.add_addresses(ipv6)
        prefix = IPv6Interface(ipv6).network
        command += ["--enable-ra"] if router else []
        if stateful:
            command.append(f"--dhcp-range={prefix[0x100]},{prefix[0x1FF]},{prefix.prefixlen},{_LEASE_S}")
            ports.append(("udp6", 547))
        else:
            command.append(f"--dhcp-range={prefix[0]},ra-only,{prefix.prefixlen},{_LEASE_S}")
    with link.namespace.running(*command) as server:
        for table, port in ports:
            _wait_until_bound(server, table, port)
        if server.poll() is not None:
            raise PartFailed(f"dnsmasq ended with status {server.returncode}: {' '.join(command)}")
        yield


def _wait_until_bound(server: subprocess.Popen[bytes], table: str, port: int) -> None:
    wait_for(lambda: server.poll() is not None or _is_bound(server.pid, table, port), f"dnsmasq on port {port}")


def _is_bound(pid: int, table: str, port: int) -> bool:
    lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    return any(int(line.split()[1].rpartition(":")[2], 16) == port for line in lines)


@contextmanager
def leased(link: Link, version: int = 4) -> Iterator[str]:
    """The link has an address that a DHCP server gave it meanwhile, kept by dhclient. Raises PartFailed for none."""
    where = link.namespace.run if link.namespace else run
    if version == 6:  # the request goes out from the link's own address, which is checked for a second or two
        wait_for(lambda: list_addresses(link, 6, "link"), f"a usable address of {link.name} itself")
    with tempfile.TemporaryDirectory() as folder:
        script, leases, pid = (Path(folder, name) for name in ("script", "leases", "pid"))
        script.write_text(_CLIENT_SCRIPT)
        script.chmod(0o755)
        files: list[str | Path] = ["-sf", script, "-lf", leases, "-pf", pid, "-cf", "/dev/null"]
        where("dhclient", f"-{version}", "-1", *files, link.name, timeout_s=_CLIENT_TIMEOUT_S)
        try:
            [address] = list_addresses(link, version)
            yield address
        finally:
            where("dhclient", f"-{version}", "-x", *files, link.name)
            where("ip", f"-{version}", "addr", "flush", "dev", link.name, "scope", "global")


def list_addresses(link: Link, version: int, scope: str = "global") -> list[str]:
    """Its addresses, with prefix lengths, that reach beyond the link (or not) and can be used by now."""
    where = link.namespace.run if link.namespace else run
    shown = where("ip", f"-{version}", "-o", "addr", "show", "dev", link.name, "scope", scope, "-tentative")
    return [line.split()[3] for line in shown.splitlines()]
