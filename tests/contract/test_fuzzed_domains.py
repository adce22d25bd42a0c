"""Domains, devices, backups and checkpoints as anybody may write them: errors have names, nothing hangs."""

import random
from collections.abc import Callable
from pathlib import Path

from tests.fuzzing import fuzz
from tests.rounds import SOAK_FACTOR
from tests.unit.virt.builders import HOST, VM_ID
from vdsm.api import errors
from vdsm.api.backup import Checkpoint
from vdsm.api.vm import VmParameters
from vdsm.core.errors import InvalidArgument
from vdsm.virt import domain, elements, hostedits, metadata, qos, request
from vdsm.virt.devices import plug
from vdsm.virt.disks import backup_plan
from vdsm.virt.legacy.devices import Defaults

NUMBER = random.randrange(1 << 32) if SOAK_FACTOR else 0
"""The same inputs every time in quick runs; others in soak."""
Rounds = Callable[[int, int], int]
GOLDEN = Path(__file__).parents[1] / "golden/domxml"
VM = (
    f'<metadata><o:vm xmlns:o="{metadata.VM_URI}"><o:startTime type="float">1.5</o:startTime>'
    '<o:device devtype="disk" name="vda"><o:imageID>i</o:imageID><o:change><o:state>loading</o:state></o:change>'
    '</o:device><o:custom><o:a>b</o:a></o:custom></o:vm><t:qos xmlns:t="http://ovirt.org/vm/tune/1.0"><t:vcpuLimit>5'
    "</t:vcpuLimit></t:qos></metadata>"
)
DOMAINS = [file.read_bytes() for file in sorted(GOLDEN.glob("*/expected.xml"))]
DOMAINS += [document.replace(b"<devices>", VM.encode() + b"<devices>", 1) for document in DOMAINS[:2]]
DEVICES = [
    b"<d><devices><disk type='file'><source file='/a'/><target dev='sda' bus='scsi'/></disk></devices></d>",
    b"<d><devices><interface type='bridge'><mac address='02:00:00:00:00:01'/></interface></devices></d>",
    b"<d><devices><memory model='dimm'><target><size unit='MiB'>5</size><node>0</node></target></memory></devices></d>",
    f"<d><devices><hostdev mode='subsystem' type='pci'/></devices>{VM}</d>".encode(),
]
CHECKPOINTS = [f"<domaincheckpoint><name>{VM_ID}</name><parent><name>p</name></parent></domaincheckpoint>".encode()]
WORDS = [
    b"<",
    b">",
    b"/>",
    b"&#0;",
    b"&lt;",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
    b"]]>",
    b"\xff",
    b"\xed\xa0\x80",
    b"-1",
]
WORDS += [b"<metadata>", b"</metadata>", b" type='int'", b"unit='TiB'", b"1" * 30, b"xmlns:o='urn:q'", b"<uuid>"]


def make(data: bytes) -> None:
    """As a domain that libvirt tells of, and as one that a client wants."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        domain.parse_domain(text)
    except domain.DomainInvalid as error:
        assert str(error)
    try:
        wish = request.plan_request(
            VM_ID, VmParameters(xml=text), host=HOST, defaults=Defaults(), owner="/", now_s=1_700_000_000.0
        )
    except (errors.CreateFailed, errors.MissingParameter, InvalidArgument) as error:
        assert str(error)
    else:
        domain.parse_domain(wish.xml)
        hostedits.avoid_kvm(wish.domain)
        hostedits.set_images(wish.domain, {}, relabel=False)
        assert metadata.format_metadata(wish.metadata) and qos.format_policy(wish.view.policy)


def test_domains(rounds: Rounds) -> None:
    under = (domain, metadata, request, hostedits, qos, elements)
    assert fuzz(make, DOMAINS, under=under, count=rounds(700, 150_000), words=WORDS, number=NUMBER) > 2


def plug_in(data: bytes) -> None:
    """As one device that is to be plugged in."""
    text = data.decode("utf-8", "surrogateescape")
    for tag in ("disk", "interface", "memory", "hostdev"):
        try:
            wanted = plug.parse_plug(text, tag)
        except InvalidArgument as error:
            assert str(error)
        else:
            plug.find_device(wanted.root, wanted.metadata, wanted)


def test_devices(rounds: Rounds) -> None:
    under = (plug, domain, metadata, elements)
    assert fuzz(plug_in, DEVICES, under=under, count=rounds(1000, 200_000), words=WORDS, number=NUMBER) > 2


def tell(data: bytes) -> None:
    """As a checkpoint that another host made."""
    text = data.decode("utf-8", "surrogateescape")
    view = domain.parse_domain(DOMAINS[0].decode())
    try:
        backup_plan.read_checkpoint(Checkpoint(id=VM_ID, xml=text), view)
    except errors.CheckpointFailed as error:
        assert str(error)


def test_checkpoints(rounds: Rounds) -> None:
    under = (backup_plan, elements)
    assert fuzz(tell, CHECKPOINTS, under=under, count=rounds(500, 100_000), words=WORDS, number=NUMBER) > 0
