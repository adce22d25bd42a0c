"""JSON-RPC and REST against a whole daemon: how parameters are read, and what failures look like in each."""

import json
import re
import socket
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.daemon.running import GIB, House, Running, describe_volume, make_id, on_the_shared_loop, start_vm
from vdsm.api.catalogue import list_all_verbs
from vdsm.core.context import Request, Right
from vdsm.core.errors import ERRORS, NodeError
from vdsm.wire.client import CallFailed

NOBODY = "/api/v1/vms/nobody"
PROBLEM = "application/problem+json"


async def fail(daemon: Running, method: str, params: Any) -> tuple[int, str]:
    with pytest.raises(CallFailed) as caught:
        await daemon.rpc(method, params)
    return caught.value.code, str(caught.value)


UNKNOWN = make_id()


@pytest.mark.parametrize(
    ("method", "params", "number", "rest", "status", "code"),
    [
        ("VM.getStats", {"vmID": "nobody"}, 1, ("GET", f"{NOBODY}/stats", None), 404, "no-such-vm"),
        ("VM.pause", {"vmID": "nobody"}, 1, ("POST", f"{NOBODY}/pause", None), 404, "no-such-vm"),
        ("VM.destroy", {"vmID": "nobody"}, 1, ("DELETE", NOBODY, None), 404, "no-such-vm"),
        ("Task.getStatus", {"taskID": UNKNOWN}, 401, ("GET", f"/api/v1/tasks/{UNKNOWN}", None), 404, "unknown-task"),
        (
            "StorageDomain.getInfo",
            {"storagedomainID": UNKNOWN},
            358,
            ("GET", f"/api/v1/storage/domains/{UNKNOWN}", None),
            404,
            "storage-domain-does-not-exist",
        ),
        (
            "StorageDomain.getInfo",
            {"storagedomainID": "../etc"},
            1000,
            ("GET", "/api/v1/storage/domains/no-id", None),
            400,
            "invalid-parameter",
        ),
        (
            "VM.setTicket",
            {"vmID": "nobody", "password": "x", "ttl": "soon"},
            91,
            ("POST", f"{NOBODY}/ticket", {"password": "x", "ttl_s": "1"}),
            400,
            "invalid-argument",
        ),
        ("Host.echo", {}, 91, ("POST", "/api/v1/host/echo", {}), 400, "invalid-argument"),
        ("Host.bogus", {}, -32601, ("GET", "/api/v1/bogus", None), 404, "method-not-found"),
        ("bogus", {}, -32601, ("GET", "/bogus", None), 404, "method-not-found"),
        (
            "VM.create",
            {"vmID": UNKNOWN, "vmParams": {}},
            11,
            ("POST", "/api/v1/vms", {"vm_id": UNKNOWN, "parameters": {}}),
            400,
            "missing-parameter",
        ),
    ],
)
@on_the_shared_loop
async def test_a_failure_is_the_same_in_every_dialect(
    method: str, params: Any, number: int, rest: tuple[str, str, Any], status: int, code: str, house: House
) -> None:
    daemon, _ = house
    assert (await fail(daemon, method, params))[0] == number
    answer = await daemon.rest(*rest)
    assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM)
    problem = answer.json
    assert set(problem) == {"code", "number", "message", "retry", "fields"}
    assert problem["number"] == number
    assert problem["code"] == code
    assert ERRORS[problem["code"]].http == status


@pytest.mark.parametrize(
    "params",
    [
        ["hello"],
        {"message": "hello"},
        {"message": "hello", "stranger": {"a": [1]}},
        {"stranger": None, "message": "hello"},
    ],
)
@on_the_shared_loop
async def test_parameters_come_by_name_or_by_position_and_strangers_are_dropped(params: Any, house: House) -> None:
    daemon, _ = house
    assert await daemon.rpc("Host.echo", params) == "hello"


@on_the_shared_loop
async def test_positional_parameters_follow_the_published_order(house: House) -> None:
    daemon, made = house
    named = {
        "volumeID": made.volume_id,
        "storagepoolID": made.pool_id,
        "storagedomainID": made.domain_id,
        "imageID": made.image_id,
    }
    published = json.loads((await daemon.rest("GET", "/api/v1/openapi.json")).body)
    assert published["openapi"] == "3.1.0"
    assert await daemon.rpc("Volume.getInfo", list(named.values())) == await daemon.rpc("Volume.getInfo", named)


@on_the_shared_loop
async def test_too_many_positional_parameters(house: House) -> None:
    daemon, _ = house
    assert await fail(daemon, "Host.echo", ["a", "b"]) == (
        -32602,
        "Invalid parameters: Host.echo takes 1 parameters, got 2 (code -32602)",
    )
    assert (await fail(daemon, "Host.ping2", [None]))[0] == -32602


@on_the_shared_loop
async def test_what_may_miss_may_be_null(house: House) -> None:
    daemon, made = house
    every = await daemon.rpc("Host.getStorageDomains", {})
    nulls = {"storagepoolID": None, "domainClass": None, "storageType": None, "remotePath": None}
    assert await daemon.rpc("Host.getStorageDomains", nulls) == every == sorted([made.domain_id, made.iso_id])
    assert await daemon.rpc("Host.getStorageDomains", [None, None]) == every
    assert await daemon.rpc("Host.getVMList", {"vmList": None, "fullStatus": None}) != []
    assert (await daemon.rest("GET", "/api/v1/storage/domains", query={"pool_id": made.pool_id})).json == [
        made.domain_id
    ]
    pool = {"pool_id": made.pool_id, "host_id": 1, "scsi_key": "", "master_domain_id": made.domain_id}
    repeated = {**pool, "master_version": 1, "domains": None}
    path = f"/api/v1/storage/pools/{repeated.pop('pool_id')}/connect"
    assert (await daemon.rest("POST", path, repeated)).status == 204


@on_the_shared_loop
async def test_numbers_and_booleans_may_be_text_where_old_clients_send_text(house: House) -> None:
    daemon, made = house
    (vm,) = await daemon.rpc("Host.getVMList", {"fullStatus": "true", "vmList": [made.vm_id]})
    assert vm["vmName"].startswith("vm-")
    assert (await daemon.rest("GET", "/api/v1/vms", query={"full": "true"})).json[0]["name"] == vm["vmName"]


@pytest.mark.parametrize("size", [GIB, 1.5, True, -1, "-1", "", "1e9", "9" * 30, None])
@on_the_shared_loop
async def test_a_size_in_bytes_is_text_in_this_dialect(size: Any, house: House) -> None:
    daemon, made = house
    params = describe_volume(made, volumeID=make_id(), imageID=make_id(), size=size)
    assert (await fail(daemon, "Volume.create", params))[0] == 1000


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"{", "body"),
        (b"[]", "body"),
        (b"7", "body"),
        (b'{"message": "\xff"}', "body"),
        (b'{"message": "\\udc80"}', "body"),
        (b'{"message": 1e999}', "body"),
        (b'{"message": 123456789012345678901234567890}', "body"),
        (b'{"message": "a", "stranger": 1}', "body"),
        (b'{"message": 7}', "message"),
        (b"{" + b'"a":{' * 100 + b"}" * 101, "body"),
        (b'{"message": [' + b"0," * 200_000 + b"0]}", "body"),
    ],
)
@on_the_shared_loop
async def test_a_body_that_does_not_fit_is_told_where(body: bytes, where: str, house: House) -> None:
    daemon, _ = house
    answer = await daemon.rest("POST", "/api/v1/host/echo", body)
    assert (answer.status, answer.json["code"], answer.json["fields"]["where"]) == (400, "invalid-argument", where)


@on_the_shared_loop
async def test_values_are_counted_in_json_rpc_too(house: House) -> None:
    daemon, _ = house
    assert (await fail(daemon, "Host.echo", {"message": "x", "devices": [0] * 200_000}))[0] == -32602
    text = "," * 200_000
    assert (await fail(daemon, "Host.echo", {"message": text}))[0] == -32602
    assert await daemon.rpc("Host.echo", {"message": "x" * 300_000}) == "x" * 300_000


@on_the_shared_loop
async def test_the_path_is_not_repeated_in_the_body(house: House) -> None:
    daemon, made = house
    answer = await daemon.rest("POST", f"/api/v1/vms/{made.vm_id}/reset", {"vm_id": "other"})
    assert (answer.status, answer.json["fields"]["where"]) == (400, "vm_id")
    answer = await daemon.rest("GET", f"/api/v1/vms/{made.vm_id}", query={"vm_id": "other"})
    assert (answer.status, answer.json["fields"]["where"]) == (400, "vm_id")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/vms", "GET, HEAD, POST"),
        ("POST", "/api/v1/host/stats", "GET, HEAD"),
        ("DELETE", "/api/v1/openapi.json", "GET, HEAD"),
        ("GET", "/", "POST"),
        ("GET", "/RPC2", "POST"),
        ("PATCH", "/api/v1/vms/x", "DELETE, GET, HEAD"),
    ],
)
@on_the_shared_loop
async def test_a_method_that_a_resource_does_not_take(method: str, path: str, allowed: str, house: House) -> None:
    daemon, _ = house
    answer = await daemon.rest(method, path)
    assert (answer.status, answer.headers["content-type"], answer.headers["allow"]) == (405, PROBLEM, allowed)
    assert answer.json["code"] == "method-not-allowed"


@pytest.mark.parametrize("path", ["/api/v1", "/api/v1/", "/api/v1/vms/", "/favicon.ico", "/api/v2/vms", "//api/v1/vms"])
@on_the_shared_loop
async def test_a_path_that_leads_nowhere(path: str, house: House) -> None:
    daemon, _ = house
    answer = await daemon.rest("GET", path)
    assert (answer.status, answer.headers["content-type"]) == (404, PROBLEM)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "https://localhost"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
@on_the_shared_loop
async def test_what_a_page_of_another_site_sends_is_refused(headers: dict[str, str], status: int, house: House) -> None:
    daemon, _ = house
    text = {**headers, "Content-Type": "text/plain"}
    assert (await daemon.rest("POST", "/api/v1/host/echo", {"message": "x"}, headers=text)).status == status
    ping = b"<methodCall><methodName>ping</methodName></methodCall>"
    assert (await daemon.rest("POST", "/RPC2", ping, headers=text)).status == status


async def test_long_work_answers_with_the_place_of_its_task(daemon: Running) -> None:
    pool = make_id()
    body = {"previous_id": -1, "previous_lease_version": -1, "scsi_fencing": ""}
    answer = await daemon.rest("POST", f"/api/v1/storage/pools/{pool}/spm/start", body)
    assert (answer.status, answer.json["number"]) == (404, 309)


@on_the_shared_loop
async def test_a_created_vm_is_201_and_a_task_is_202(house: House) -> None:
    daemon, made = house
    vm_id, image_id, volume_id = make_id(), make_id(), make_id()
    created = await daemon.rest(
        "POST", "/api/v1/vms", {"vm_id": vm_id, "parameters": {"name": "rest", "memory_mib": 64}}
    )
    assert (created.status, created.json["vm_id"], created.json["status"]) == (201, vm_id, "WaitForLaunch")
    await daemon.wait_until(lambda: daemon.list_statuses(vm_id))
    assert (await daemon.rest("DELETE", f"/api/v1/vms/{vm_id}")).status == 204
    images = f"/api/v1/storage/domains/{made.domain_id}/images"
    body = {
        "volume_id": volume_id,
        "pool_id": made.pool_id,
        "size_bytes": 4096,
        "format": "RAW",
        "allocation": "SPARSE",
        "disk_type": "DATA",
        "description": "",
    }
    task = await daemon.rest("POST", f"{images}/{image_id}/volumes", body)
    assert (task.status, task.headers["location"]) == (202, f"/api/v1/tasks/{task.json['task']}")
    await daemon.finish(task.json["task"])
    gone = {"pool_id": made.pool_id, "zero": "false", "force": "false"}
    task = await daemon.rest("DELETE", f"{images}/{image_id}/volumes/{volume_id}", query=gone)
    await daemon.finish(task.json["task"])
    assert (await daemon.rest("GET", f"{images}")).json == [made.image_id]


async def test_what_nobody_foresaw_tells_nothing_of_the_inside(daemon: Running) -> None:
    vm_id = make_id()
    await start_vm(daemon, vm_id)
    for _ in range(2):
        daemon.machine.fake.fail_next("reset", ZeroDivisionError("secret detail"))
    assert await fail(daemon, "VM.reset", {"vmID": vm_id}) == (
        100,
        "General Exception: ('ZeroDivisionError',) (code 100)",
    )
    answer = await daemon.rest("POST", f"/api/v1/vms/{vm_id}/reset")
    assert (answer.status, answer.json["number"], b"secret" in answer.body) == (500, 100, False)


@on_the_shared_loop
async def test_a_right_that_is_missing(house: House) -> None:
    """Every client that gets in may do everything today, so the dispatcher is asked."""
    daemon, made = house
    viewer = Request("192.0.2.1", 7, right=Right.VIEW)
    assert (await daemon.call("vm.get_stats", viewer, vm_id=made.vm_id)).vm_id == made.vm_id
    for name, arguments in (("vm.reset", {"vm_id": made.vm_id}), ("pool.spm_stop", {"pool_id": made.pool_id})):
        with pytest.raises(NodeError) as caught:
            await daemon.call(name, viewer, **arguments)
        assert (caught.value.code, caught.value.number, caught.value.http) == ("not-allowed", 16, 403)


@on_the_shared_loop
async def test_who_asks_is_told_its_own_way_in(house: House) -> None:
    daemon, _ = house
    assert (await daemon.rpc("Host.getCapabilities"))["lastClientIface"] == "lo"
    info = (await daemon.xmlrpc("getVdsCapabilities"))["info"]
    assert (info["lastClient"], info["lastClientIface"]) == ("127.0.0.1", "lo")
    assert (await daemon.rest("GET", "/api/v1/host/capabilities")).json["client_interface"] == ""


async def test_answers_over_tcp_do_not_wait_for_the_client(daemon: Running) -> None:
    await daemon.xmlrpc("ping")
    (connection,) = daemon.node.doors.http.state.connections
    accepted = connection.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# The published contract.


def find_references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in find_references(item)]
    return [found for item in value for found in find_references(item)] if isinstance(value, list) else []


def resolve(document: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        document = document[part]
    return document


@on_the_shared_loop
async def test_the_contract_is_whole(house: House) -> None:
    daemon, _ = house
    document = (await daemon.rest("GET", "/api/v1/openapi.json")).json
    references = find_references(document)
    assert len(references) > 50
    for reference in references:
        assert resolve(document, reference)
    operations = {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    verbs = {tuple(verb.http.split()): verb for verb in list_all_verbs()}
    assert set(operations) == {*verbs, ("GET", "/events")}
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)
    for (method, path), operation in operations.items():
        listed = operation.get("parameters", [])
        assert {p["name"] for p in listed if p["in"] == "path"} == set(re.findall(r"\{(\w+)\}", path))
        assert all(p["required"] for p in listed if p["in"] == "path")
        assert method not in ("GET", "DELETE") or "requestBody" not in operation
        assert operation["summary"]
        assert all(response.get("description") or "$ref" in response for response in operation["responses"].values())


@on_the_shared_loop
async def test_the_contract_names_every_parameter(house: House) -> None:
    daemon, _ = house
    document = (await daemon.rest("GET", "/api/v1/openapi.json")).json
    for verb in list_all_verbs():
        method, path = verb.http.split()
        operation = document["paths"][path][method.lower()]
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        names = [p["name"] for p in operation.get("parameters", [])] + list(body.get("properties", {}))
        assert sorted(names) == sorted(p.name for p in verb.parameters), verb.name
        assert set(body.get("required", ())) <= {p.name for p in verb.parameters if p.required}


class Links(HTMLParser):
    """What a page would load or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [(name, value) for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]


@on_the_shared_loop
async def test_the_page_for_people_loads_nothing(house: House) -> None:
    daemon, _ = house
    answer = await daemon.rest("GET", "/api/v1/docs")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    links = Links()
    links.feed(answer.body.decode())
    assert links.found == [("href", "openapi.json")]
    assert not links.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert b"url(" not in answer.body
    assert b"@import" not in answer.body
    for verb in list_all_verbs():
        assert verb.http.encode() in answer.body
