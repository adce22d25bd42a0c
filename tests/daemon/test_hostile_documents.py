"""Hostile XML of VMs, and VMs that claim what is not theirs: refused, or started and described to everybody."""

import asyncio
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.daemon.hostile_clients import DIALECTS, Dialect, Reply, attacking
from tests.daemon.hostile_node import Ground
from tests.daemon.hostile_values import TEXTS, VERBS, Attack
from tests.daemon.running import make_id

CREATE_FAILED = 9
NAMESPACE = "http://ovirt.org/vm/1.0"
patient = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
READS = ("vms.list_full", "vms.list_stats", "vms.list_vms", "host.get_stats")


def domain(
    inside: str = "", *, head: str = "", metadata: str = "", name: str = "x", uuid: str = "", memory: str = "16384"
) -> str:
    """A domain with room for evil in several places."""
    vm = f"<metadata><o:vm>{metadata}</o:vm></metadata>"
    start = f'{head}<domain type="kvm" xmlns:o="{NAMESPACE}"><name>{name}</name><uuid>{uuid or make_id()}</uuid>'
    return f"{start}<memory>{memory}</memory>{vm}{inside}</domain>"


NINES = "9" * 30
BOMB = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))

REFUSED = {
    "entity bomb": domain(head=f'<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">{BOMB}]>', name="&i;"),
    "quadratic entities": domain(head=f'<!DOCTYPE d [<!ENTITY a "{"x" * 10_000}">]>', name="&a;" * 1000),
    "external entity": domain(head='<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]>', name="&a;"),
    "external parameter entity": domain(head='<!DOCTYPE d [<!ENTITY % a SYSTEM "http://127.0.0.1:1/x"> %a;]>'),
    "not a domain": domain().replace("domain", "network"),
    "another's domain": domain().replace("<domain", "<domain xmlns='urn:x'"),
    "no XML": "hello",
    "half of it": domain()[:-20],
    "two documents": domain() + domain(),
    "no id": domain().replace("uuid", "guid"),
    "no name": domain(name=" "),
    "an id that is a path": domain(uuid="../../etc/passwd"),
    "too deep": domain("<a>" * 100_000 + "</a>" * 100_000),
    "metadata too deep": domain(metadata=f"<device devtype='disk'>{'<a>' * 500}{'</a>' * 500}</device>"),
    "too wide": domain("<a/>" * 100_000),
    "too large": domain(f"<a>{'x' * (2 << 20)}</a>"),
    "too many devices": domain(f"<devices>{'<disk/>' * 5000}</devices>"),
    "memory beyond all": domain(memory="9" * 400),
    "memory in bytes beyond all": domain(memory="9" * 310).replace("<memory>", "<memory unit='b'>"),
    "memory without end": domain(memory="9" * 5000),
    "memory that is none": domain(memory="nan"),
    "processors beyond all": domain(f"<vcpu current='{NINES}'>{NINES}</vcpu>"),
    "more processors than libvirt has memory for": domain("<vcpu>4000000000</vcpu>"),
    "more threads than libvirt has memory for": domain("<iothreads>4000000000</iothreads>"),
    "controllers beyond all": domain(
        "<devices><disk><target dev='sda' bus='scsi'/><address controller='200000'/></disk></devices>"
    ),
    "a disk behind all controllers": domain("<devices><disk><target dev='sdaaaaa' bus='scsi'/></disk></devices>"),
    "cores that are none": domain("<cpu><topology cores='nan' threads='1'/></cpu>"),
    "time beyond all": domain(f"<clock adjustment='{NINES}'/>"),
    "two signs": domain("<clock adjustment='--5'/>"),
    "number beyond all": domain(metadata=f"<balloonTarget type='int'>{NINES}</balloonTarget>"),
    "infinity": domain(metadata="<startTime type='float'>1e999</startTime>"),
    "no number": domain(metadata="<startTime type='float'>nan</startTime>"),
    "control character": domain("<a>\x01</a>"),
    "reference to one": domain("<a>&#1;</a>"),
    "half a character": domain("<a>&#xd800;</a>"),
    "an open display": domain("<devices><graphics type='vnc'/></devices>"),
}
STARTED = {
    "plain": domain(),
    "processing instruction": domain("<?php x?>", head='<?xml-stylesheet href="file:///etc/passwd"?>'),
    "comments and sections": domain("<!-- a --><devices><!-- b --><disk><?c?></disk></devices><![CDATA[d]]>"),
    "another encoding": "<?xml version='1.0' encoding='utf-16'?>" + domain(),
    "names that lead elsewhere": domain(name="../../etc/cron.d/x"),
    "two ids": domain(f"<uuid>{make_id()}</uuid><name>second</name>"),
    "two metadata": domain("<metadata/><metadata/>", metadata="</o:vm><o:vm>"),
    "foreign names": domain(metadata="<q:a xmlns:q='urn:q'>1</q:a><device xmlns:q='urn:q' q:z='1'><é b='1'/></device>"),
    "placeholders": domain("<sysinfo><system><entry name='serial'>HOST-SERIAL:</entry></system></sysinfo>"),
    "lease of nobody": domain("<devices><lease><target path='LEASE-PATH:' offset='LEASE-OFFSET:'/></lease></devices>"),
    "another's end": domain(metadata="<owner>/</owner><exitCode type='int'>0</exitCode><exitReason>0</exitReason>"),
    "long names": domain(f"<devices><interface><source bridge='{'x' * 100_000}'/></interface></devices>"),
}  # fmt: skip


async def create(ground: Ground, xml: str, dialect: Dialect) -> Reply:
    """Create such a VM, and ask for it in every dialect and way."""
    twisted: dict[str, Any] = {"vm_id": make_id(), "parameters": {"xml": xml, "vm_id": make_id()}}
    async with attacking(ground.siege) as [attacker]:
        reply: Reply = await attacker.call(Attack(VERBS["vm.create"], twisted), dialect)
        ground.siege.check_reply(reply, xml[:300])
        for verb in READS if reply.code is None else ():
            for other in DIALECTS:
                seen = await attacker.call(Attack(VERBS[verb], {}), other)
                assert seen.code is None, f"{verb} over {other}: {seen.text}"
        await ground.siege.check()
    return reply


@pytest.mark.parametrize("dialect", ["jsonrpc", "xmlrpc", "rest"])
@pytest.mark.parametrize("name", REFUSED)
def test_documents_that_are_refused(ground: Ground, name: str, dialect: Dialect) -> None:
    reply = ground.run(create(ground, REFUSED[name], dialect))
    # XML-RPC has limits of its own before the document is looked at.
    assert reply.code in ((CREATE_FAILED, 400, 413) if dialect == "xmlrpc" else (CREATE_FAILED,)), reply
    assert reply.size_bytes < 1000


@pytest.mark.parametrize("dialect", ["jsonrpc", "xmlrpc", "rest"])
@pytest.mark.parametrize("name", STARTED)
def test_documents_that_are_strange_but_harmless(ground: Ground, name: str, dialect: Dialect) -> None:
    assert ground.run(create(ground, STARTED[name], dialect)).code is None


def test_nobody_hears_of_the_secret_file(ground: Ground) -> None:
    xml = domain(head='<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]>', name="&a;")
    assert "root:" not in ground.run(create(ground, xml, "jsonrpc")).text


def test_a_volume_that_is_a_path_is_no_volume(ground: Ground) -> None:
    ids = {"poolID": "../../etc", "domainID": "/etc", "imageID": "..", "volumeID": "passwd"}
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in ids.items())
    device = f"<device devtype='disk' name='vda'>{inner}</device>"
    disk = "<devices><disk type='file' device='disk'><target dev='vda'/></disk></devices>"
    vm_id = make_id()

    async def play() -> Any:
        siege = ground.siege
        async with attacking(siege) as [attacker]:
            given = {"vm_id": vm_id, "parameters": {"xml": domain(disk, metadata=device, uuid=vm_id)}}
            await attacker.call(Attack(VERBS["vm.create"], given), "rest")
            vm = siege.daemon.node.vms
            async with asyncio.timeout(20):
                while (await vm.get_stats(vm_id)).status != "Down":
                    await asyncio.sleep(0)
            stats = await vm.get_stats(vm_id)
            await siege.check()
            return stats

    assert "Bad volume specification" in ground.run(play()).exit_message


TAGS = """disk source target driver interface graphics memory maxMemory vcpu cpu topology clock os type boot metadata
    devices console lease key sysinfo system entry on_reboot é""".split()
tags = st.sampled_from(
    [*TAGS, *(f"{{{NAMESPACE}}}{name}" for name in ("vm", "device", "custom", "startTime", "exitCode"))]
)
NAMES = "type device dev file bus name passwdValidTo passwd unit current cores adjustment devtype path offset {urn:q}x"
names = st.sampled_from(NAMES.split())
plain = st.sampled_from([text for text in TEXTS if isinstance(text, str)]).filter(
    lambda text: all(c in "\t\n\r" or " " <= c < "\ud800" or "\ue000" <= c <= "\ufffd" for c in text)
)
words = plain | st.sampled_from(
    ["int", "float", "bool", "1", "kvm", "vnc", "file", "disk", "vda", "KiB", "PAYLOAD:", "1e999"]
)
leaves = st.builds(
    lambda tag, attributes, text: (tag, attributes, text, []), tags, st.dictionaries(names, words), words
)
trees = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda tag, attributes, text, children: (tag, attributes, text, children),
        tags,
        st.dictionaries(names, words, max_size=3),
        words,
        st.lists(inner, max_size=4),
    ),
    max_leaves=15,
)


def grow(parent: Element, tree: tuple[str, dict[str, str], str, list[Any]]) -> None:
    """Add the tree to the parent."""
    tag, attributes, text, children = tree
    made = SubElement(parent, tag, attributes)
    made.text = text
    for child in children:
        grow(made, child)


@patient
@given(st.lists(trees, max_size=5), st.sampled_from(["jsonrpc", "xmlrpc", "rest"]))
def test_documents_of_all_kinds(ground, forest, dialect):
    root = Element("domain", {"type": "kvm"})
    for tag, text in (("name", "x"), ("uuid", make_id()), ("memory", "16384")):
        SubElement(root, tag).text = text
    for tree in forest:
        grow(root, tree)
    ground.run(create(ground, tostring(root, encoding="unicode"), dialect))
