"""Every verb that only looks, over every dialect: the answers are the same but for the names (issue: shows 7)."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from tests.daemon.forms import to_ours, to_plain
from tests.daemon.running import PREFIX, Furniture, House, Running, on_the_shared_loop
from vdsm.api.catalogue import list_all_verbs
from vdsm.api.declare import Verb, XmlRpc
from vdsm.core.context import Right

POOL, DOMAIN, IMAGE, VOLUME, VM, TASK = "pool_id", "domain_id", "image_id", "volume_id", "vm_id", "task_id"
VOLUME_IDS = (VOLUME, POOL, DOMAIN, IMAGE)

READS: dict[str, tuple[Any, ...]] = {
    "host.ping": (),
    "host.ping2": (),
    "host.echo": ({"message": 'grüß <Gott> & "so"'},),
    "host.get_capabilities": (),
    "host.get_stats": (),
    "host.get_hardware_info": (),
    "vms.list_vms": ({"full": False},),
    "vms.list_full": (),
    "vms.list_stats": (),
    "vm.get_info": (VM,),
    "vms.list_definitions": ("vm_ids",),
    "vm.get_stats": (VM,),
    "migration.get_status": (VM,),
    "backup.get_info": (VM, "backup_id", "checkpoint_id"),
    "backup.list_checkpoints": (VM,),
    "backup.dump_checkpoint": (VM, "checkpoint_id"),
    "tuning.list_io_policies": (),
    "tuning.get_io_tune": (VM,),
    "tuning.get_io_policy": (VM,),
    "storage.list_domains": (POOL,),
    "storage.list_pools": (),
    "monitors.get_vitals": ({"domain_ids": []},),
    "pool.get_info": (POOL,),
    "pool.get_spm_status": (POOL,),
    "pool.find_image": (POOL, IMAGE),
    "definition.list_vms": (POOL,),
    "definition.read": (POOL,),
    "domain.get_info": (DOMAIN,),
    "domain.get_stats": (DOMAIN,),
    "domain.list_images": (DOMAIN,),
    "domain.list_volumes": (DOMAIN, POOL),
    "domain.validate": (DOMAIN,),
    "domain.dump": (DOMAIN,),
    "domain.list_files": ("domain_id=iso_id", {"pattern": "*.ISO", "case_sensitive": False}),
    "volume.get_info": VOLUME_IDS,
    "volume.get_size": VOLUME_IDS,
    "volume.get_qemu_info": VOLUME_IDS,
    "volume.measure": (*VOLUME_IDS, {"format": "RAW"}),
    "volume.verify_untrusted": VOLUME_IDS,
    "image.list_volumes": (IMAGE, POOL, DOMAIN),
    "task.get_status": (TASK,),
    "task.get_info": (TASK,),
    "task.list_statuses": (),
    "task.list_infos": (),
    "task.list_details": (),
    "task.list_jobs": (),
}
"""Arguments: ids of the furniture by name (or by another, `parameter=name`), others as they are."""

MEASURED: dict[str, frozenset[str]] = {
    "host.get_capabilities": frozenset({"cpu_mhz", "client_interface"}),
    "domain.get_stats": frozenset({"free_bytes"}),
    "pool.get_info": frozenset({"free_bytes"}),
}
"""What may differ from one call to the next: it is read at each, or tells of the caller."""

VERBS = {verb.name: verb for verb in list_all_verbs() if verb.needs is Right.VIEW}


def get_arguments(name: str, made: Furniture) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for item in READS[name]:
        if isinstance(item, dict):
            arguments |= item
        else:
            parameter, _, attribute = item.partition("=")
            arguments[parameter] = getattr(made, attribute or parameter)
    return arguments


def drop(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: drop(item, names) for key, item in value.items() if key not in names}
    return [drop(item, names) for item in value] if isinstance(value, list) else value


async def ask_jsonrpc(daemon: Running, verb: Verb, arguments: Mapping[str, Any]) -> Any:
    wire = {p.ovirt.name: arguments[p.name] for p in verb.parameters if p.name in arguments}
    answer = await daemon.rpc(verb.ovirt, wire)
    if verb.returns is type(None):
        assert answer is True
        return None
    if verb.ovirt == "VM.getStats":
        (answer,) = answer
    return to_ours(verb.returns, answer)


async def ask_xmlrpc(daemon: Running, verb: Verb, call: XmlRpc, arguments: Mapping[str, Any]) -> Any:
    positional = [arguments.get(name, "") for name in call.parameters]
    answer = await daemon.xmlrpc(call.name, *positional)
    message = "Done" if verb.name.split(".")[0] in ("host", "vms", "vm", "tuning", "migration") else "OK"
    assert answer.pop("status") == {"code": 0, "message": message}
    if verb.returns is type(None):
        assert answer == {}
        return None
    if call.member is not None:
        assert list(answer) == [call.member]
        answer = answer[call.member]
    if call.name == "getVmStats":
        (answer,) = answer
    if call.name == "getVdsCapabilities":
        assert answer.pop("lastClient") == "127.0.0.1"
    return to_ours(verb.returns, answer)


async def ask_rest(daemon: Running, verb: Verb, arguments: dict[str, Any]) -> Any:
    method, path = verb.http.split()
    rest = {name: value for name, value in arguments.items() if f"{{{name}}}" not in path}
    inputs = {"query": rest} if method == "GET" else {"body": rest}
    answer = await daemon.rest(method, PREFIX + path.format(**arguments), **inputs)
    if verb.returns is type(None):
        assert (answer.status, answer.body) == (204, b"")
        return None
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return to_plain(verb.returns, msgspec.convert(answer.json, verb.returns))


def test_the_table_has_every_verb_that_only_looks() -> None:
    assert set(READS) == set(VERBS)


@on_the_shared_loop
@pytest.mark.parametrize("name", READS)
async def test_all_dialects_answer_alike(name: str, house: House) -> None:
    daemon, made = house
    verb, arguments = VERBS[name], get_arguments(name, made)
    expected = to_plain(verb.returns, await daemon.call(name, **arguments))
    answers = {
        "JSON-RPC": await ask_jsonrpc(daemon, verb, arguments),
        "REST": await ask_rest(daemon, verb, arguments),
        **{call.name: await ask_xmlrpc(daemon, verb, call, arguments) for call in verb.xmlrpc},
    }
    measured = MEASURED.get(name, frozenset())
    for dialect, answer in answers.items():
        assert drop(answer, measured) == drop(expected, measured), dialect
    if verb.returns is not type(None) and name != "host.get_hardware_info":  # a virtual machine may have no tables
        assert expected not in ({}, [], ""), "an empty answer proves nothing"
