"""JSON-RPC envelopes (facts: rpc §1.5)."""

import asyncio
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from vdsm.core.context import INTERNAL, Request, current_request
from vdsm.core.errors import GeneralFailure
from vdsm.wire.errors import InvalidParams, MethodNotFound
from vdsm.wire.jsonrpc import JsonRpc, is_unaddressed
from vdsm.wire.ports import Limits


async def invoke(method: str, params: Raw, request: Request) -> bytes:
    match method:
        case "echo":
            return bytes(params)
        case "flow":
            return msgspec.json.encode(current_request().flow_id)
        case "fail":
            raise GeneralFailure("no luck")
        case "params":
            raise InvalidParams("x: wrong")
        case "crash":
            raise KeyError("boom")
    raise MethodNotFound(method)


RPC = JsonRpc(invoke, Limits())


async def ask(body, rpc: JsonRpc = RPC, request: Request = INTERNAL):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await rpc.call_jsonrpc(data, request)
    return None if answer is None else json.loads(answer)


def call(method="echo", id=1, **more):
    return {"jsonrpc": "2.0", "method": method, "id": id, **more}


@pytest.mark.parametrize("id", [1, "a-b", 0, -7, 2**70, 1.5, "\u00e9\U0001f600"])
async def test_answers_carry_the_id_as_it_came(id):
    assert await ask(call(id=id, params={"a": [1]})) == {"jsonrpc": "2.0", "id": id, "result": {"a": [1]}}


@pytest.mark.parametrize(("params", "given"), [({}, {}), ([], []), ([1, "x"], [1, "x"])])
async def test_params_may_be_an_object_or_an_array(params, given):
    assert (await ask(call(params=params)))["result"] == given


async def test_params_may_be_left_out():
    assert (await ask(call()))["result"] == {}


async def test_a_batch_of_one_is_answered_by_an_object():
    assert (await ask([call(id=5)]))["id"] == 5


async def test_a_longer_batch_is_answered_by_an_array_without_its_notifications():
    answers = await ask([call(id=1), {"jsonrpc": "2.0", "method": "echo"}, 7, call("fail", id=2)])
    assert [(a["id"], a.get("error", {}).get("code")) for a in answers] == [(1, None), (None, -32600), (2, 100)]


async def test_notifications_are_done_in_silence():
    done = []

    async def note(method: str, params: Raw, request: Request) -> bytes:
        done.append(method)
        raise KeyError(method)

    assert await ask({"jsonrpc": "2.0", "method": "a"}, JsonRpc(note, Limits())) is None
    assert await ask([{"jsonrpc": "2.0", "method": "b"}] * 2, JsonRpc(note, Limits())) is None
    assert done == ["a", "b", "b"]


@pytest.mark.parametrize(
    ("method", "code", "message"),
    [
        ("fail", 100, "General Exception: no luck"),
        ("params", -32602, "Invalid parameters: x: wrong"),
        ("nothing", -32601, "Method not found: nothing"),
        ("crash", -32603, "Internal JSON-RPC error: {'reason': \"'boom'\"}"),
    ],
)
async def test_failures_have_numbers(method, code, message):
    assert (await ask(call(method, id="x"))) == {
        "jsonrpc": "2.0",
        "id": "x",
        "error": {"code": code, "message": message},
    }


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"nonsense", -32700),
        (b'{"jsonrpc":"2.0","method":"echo","id":"\xff"}', -32700),
        (b'{"jsonrpc":"2.0","method":"echo","id":1,"params":{"a":"\xff"}}', -32700),
        (b'{"jsonrpc":"2.0","method":"echo","id":1,}', -32700),
        (b'{"method":5,"id":}', -32700),
        (b"[1,", -32700),
        (b"[" * 100_000, -32700),
        (b'{"a":' * 100_000, -32700),
        (b'{"jsonrpc":"2.0","method":"echo","id":1,"params":' + b"[" * 64 + b"]" * 64 + b"}", -32700),
        (b"[]", -32600),
        (b"null", -32600),
        (b"5", -32600),
        (b"{}", -32600),
        ({"jsonrpc": "2.0", "id": 1}, -32600),
        ({"method": "echo", "id": 1}, -32600),
        ({"method": "echo"}, -32600),
        (call(jsonrpc="1.0"), -32600),
        (call(params=5), -32600),
        (call(params="text"), -32600),
        (call(id=True), -32600),
        (call(id=[1]), -32600),
        (call(method=5), -32600),
        ([call()] * 1001, -32600),
        (b"[" + b"1," * 1_000_000 + b"1]", -32600),
    ],
)
async def test_what_is_no_request_is_refused_without_an_id(body, code):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await RPC.call_jsonrpc(data, INTERNAL)
    assert answer is not None
    assert is_unaddressed(answer)
    assert json.loads(answer)["error"]["code"] == code


async def test_a_lone_request_may_be_large_and_as_deep_as_the_limit():
    deep: list = []
    for _ in range(62):
        deep = [deep]
    assert (await ask(call(params=deep)))["result"] == deep
    assert (await ask([call(params=["x" * 2_000_000])]))["id"] == 1


@given(st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
def test_any_bytes_get_an_answer(body):
    answer = asyncio.run(RPC.call_jsonrpc(body, INTERNAL))
    assert answer is not None
    assert json.loads(answer)["error"]["code"] in (-32700, -32600)


async def test_the_request_is_known_to_the_call():
    assert (await ask(call("flow"), request=Request(flow_id="f1")))["result"] == "f1"


@pytest.mark.parametrize("limits", [Limits(calls_in_flight=2), Limits(call_bytes_in_flight=120)])
async def test_calls_in_flight_are_bounded_and_the_bound_is_given_back(limits):
    hold = asyncio.Event()

    async def wait(method: str, params: Raw, request: Request) -> bytes:
        await hold.wait()
        return b"true"

    rpc = JsonRpc(wait, limits)
    held = [asyncio.create_task(ask(call(id=n), rpc)) for n in range(2)]
    await asyncio.sleep(0)
    assert (await ask(call(id=9), rpc))["error"]["code"] == 1100
    hold.set()
    assert all("result" in answer for answer in await asyncio.gather(*held))
    assert (await ask(call(id=9), rpc))["result"] is True
