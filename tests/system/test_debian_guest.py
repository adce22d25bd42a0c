"""The Debian guest: it boots under libvirt, its agent answers, and it turns itself off when the agent is asked to."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest

from lab import debian
from lab.commands import wait_for
from lab.debian import Guest
from tests.system.private_libvirtd import PrivateLibvirtd

BOOT_LIMIT_S = 240.0
pytestmark = [
    pytest.mark.skipif(debian.why_not() is not None, reason=str(debian.why_not())),
    pytest.mark.timeout(900),  # the first run on a machine makes the guest
]


@pytest.fixture(scope="module")
def guest() -> Guest:
    return debian.get_guest()


@pytest.fixture
def domain(guest: Guest, libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[libvirt.virDomain]:
    disk = tmp_path / "disk.qcow2"
    guest.create_overlay(disk)
    connection = libvirt.open(libvirtd.uri)
    try:
        yield connection.createXML(guest.make_domain("debian", disk, console=tmp_path / "console"))
    finally:
        connection.close()


def ask(domain: libvirt.virDomain, command: str, **arguments: object) -> object:
    text = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(libvirt_qemu.qemuAgentCommand(domain, text, 30, 0))["return"]


def wait_for_agent(domain: libvirt.virDomain, console: Path) -> None:
    deadline = time.monotonic() + BOOT_LIMIT_S
    while True:
        try:
            assert ask(domain, "guest-ping") == {}
            return
        except libvirt.libvirtError:
            assert time.monotonic() < deadline, console.read_text(errors="replace")[-2000:]
            time.sleep(0.2)


def is_gone(domain: libvirt.virDomain) -> bool:
    try:
        domain.info()
    except libvirt.libvirtError as error:
        assert error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
        return True
    return False


def test_agent_answers_and_turns_the_guest_off(domain: libvirt.virDomain, tmp_path: Path) -> None:
    wait_for_agent(domain, tmp_path / "console")
    assert ask(domain, "guest-get-host-name") == {"host-name": debian.HOSTNAME}
    info = ask(domain, "guest-info")
    assert isinstance(info, dict)
    assert "guest-shutdown" in {command["name"] for command in info["supported_commands"]}
    domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
    wait_for(lambda: is_gone(domain), "the guest is off", BOOT_LIMIT_S, pause_s=0.2)
