"""The dialect of 2011: positional calls with old names, answers with a status (facts §1.15); HTTP is left to `web`."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from xml.parsers.expat import ExpatError
from xmlrpc.client import Fault, ResponseError, Unmarshaller, dumps

from defusedxml import DefusedXmlException
from defusedxml.xmlrpc import DefusedExpatParser
from msgspec import Struct

from vdsm.api.declare import XmlRpc
from vdsm.api.errors import MissingParameter
from vdsm.core.context import Request
from vdsm.core.errors import GeneralFailure, NodeError, shorten
from vdsm.core.ids import BLANK_UUID
from vdsm.wire.dialects.forms import BadValue
from vdsm.wire.dispatch import Binding, Dispatcher, invalid, refuse

GIB = 1024**3
MAX_NESTING = 64
INT_LIMIT = 2**31
UNEXPECTED = 16
_PROVOKED = (
    *(ExpatError, ResponseError, SyntaxError, ValueError, TypeError),
    *(LookupError, AttributeError, ArithmeticError),
)
"""What the stock parser lets escape when a body is malformed; each was met by fuzzing."""
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class BadCall(Exception):
    """The body is no XML-RPC call that can be answered."""


class OldName(Struct, frozen=True):
    """One name of 2011 and the verb behind it."""

    call: XmlRpc
    binding: Binding
    parameters: tuple[tuple[str, bool] | None, ...]
    """By position: the wire's name, and whether an empty text stands for "not given"; None for what is ignored."""


def _make_old_name(call: XmlRpc, binding: Binding) -> OldName:
    known = {
        name: (wire, not required or form.optional, default)
        for name, wire, form, required, default in binding.shape.parameters
    }
    parameters: list[tuple[str, bool] | None] = []
    for name in call.parameters:
        if name == "_":
            parameters.append(None)
        else:
            wire, may_miss, default = known[name]
            parameters.append((wire, may_miss and default != ""))
    return OldName(call, binding, tuple(parameters))


def parse_call(body: bytes) -> tuple[str, list[Any]]:
    """The method's name and its positional parameters; raises BadCall for anything else, entities included."""
    target = Unmarshaller(use_builtin_types=True)
    parser = DefusedExpatParser(target, forbid_dtd=True)
    try:
        parser.feed(body)
        parser.close()
        parameters = target.close()
        method = target.getmethodname()
    except (DefusedXmlException, Fault) as error:
        raise BadCall(shorten(str(error), 200)) from error
    except _PROVOKED as error:
        raise BadCall(f"malformed call: {shorten(str(error), 200)}") from error
    if not method:
        raise BadCall("methodName is missing")
    if _nesting(parameters) > MAX_NESTING:
        raise BadCall(f"nested deeper than {MAX_NESTING}")
    return method, list(parameters)


def _nesting(value: Any) -> int:
    level, deepest = [value], 0
    while level:
        deepest += 1
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, (list, tuple)):
                inner += item
        level = inner
    return deepest


def format_answer(value: Any) -> bytes:
    """A method response; numbers beyond 32 bits become text, absent members stay absent."""
    return dumps((_plain(value),), methodresponse=True, encoding="utf-8").encode("utf-8", "replace")


def format_fault(code: int, text: str) -> bytes:
    """A fault: the method is unknown, or the call could not be read."""
    return dumps(Fault(code, _printable(text)), methodresponse=True, encoding="utf-8").encode("utf-8", "replace")


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, bool) or isinstance(value, float):
        return value
    if isinstance(value, int):
        return value if -INT_LIMIT <= value < INT_LIMIT else str(value)
    if isinstance(value, Mapping):
        return {_printable(str(k)): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value if v is not None]
    return _printable(str(value))


def _create_volume(given: dict[str, Any]) -> None:
    for name in ("size", "initialSize"):
        size = given.get(name)
        if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < INT_LIMIT:
            given[name] = str(size * GIB)
    if str(given.get("diskType")) == "8":
        given["diskType"] = "DATA"


def _create_domain(given: dict[str, Any]) -> None:
    if given.get("version") in (0, "0", None):
        given["version"] = 5
    if isinstance(given.get("typeArgs"), str):
        given["typeArgs"] = {"remotePath": given["typeArgs"]}


def _connections(given: dict[str, Any]) -> None:
    connections = given.get("connectionParams")
    for connection in connections if isinstance(connections, list) else ():
        if isinstance(connection, dict) and "connection" not in connection and "spec" in connection:
            connection["connection"] = connection["spec"]
    given["storagepoolID"] = ""  # any text or none: it means nothing here


def _connect_pool(given: dict[str, Any]) -> None:
    if given.get("domainDict") == {}:
        del given["domainDict"]  # the oldest callers have their (empty) options in this place


def _detach_forced(given: dict[str, Any]) -> None:
    given["force"] = True


def _take_vm_id(given: dict[str, Any], name: str) -> None:
    """Calls with one structure have the VM's id in it."""
    parameters = given.get(name)
    vm_id = parameters.get("vmId") if isinstance(parameters, dict) else None
    if not vm_id:
        raise MissingParameter("vmId")
    given["vmID"] = vm_id


def _spm_start(given: dict[str, Any]) -> None:
    given["enableScsiFencing"] = str(given.get("enableScsiFencing", ""))


def _set_log_level(given: dict[str, Any]) -> None:
    level = str(given.get("level"))
    given["level"] = LEVELS.get(level, level)


_PLUGS = ("hotplugDisk", "hotunplugDisk", "hotplugNic", "hotunplugNic", "hotplugMemory")
LEVELS = {"10": "DEBUG", "20": "INFO", "30": "WARNING", "40": "ERROR", "50": "CRITICAL"}

ADJUST: dict[str, Callable[[dict[str, Any]], None]] = {
    "createVolume": _create_volume,
    "createStorageDomain": _create_domain,
    "connectStorageServer": _connections,
    "disconnectStorageServer": _connections,
    "connectStoragePool": _connect_pool,
    "forcedDetachStorageDomain": _detach_forced,
    "create": partial(_take_vm_id, name="vmParams"),
    **{name: partial(_take_vm_id, name="params") for name in _PLUGS},
    **{name: partial(_take_vm_id, name="params") for name in ("updateVmPolicy", "migrate", "migrationCreate")},
    "spmStart": _spm_start,
    "setLogLevel": _set_log_level,
}
"""Where the calls of 2011 bend (design: the old scripts need it); names are the wire's."""

_FLAGS = {"postZero": False, "force": False}
DEFAULTS: dict[str, dict[str, Any]] = {
    "deleteImage": _FLAGS,
    "copyImage": {"desc": "", "dstSdUUID": BLANK_UUID, "volType": "SHARED", **_FLAGS},
}
"""What stands for parameters that were optional then."""

STORAGE = frozenset({"storage", "monitors", "pool", "definition", "domain", "volume", "image", "task"})
"""Groups whose success is told in another word (facts: storage §12.1)."""

SPREAD = frozenset({"repoStats", "getStoragePoolInfo", "getVolumeSize", "prepareImage", "migrationCreate"})
"""Names whose result is not one member but all of them."""


class XmlRpcDialect:
    """Answers calls of 2011 through the dispatcher."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.names = {
            call.name: _make_old_name(call, binding)
            for binding in dispatcher.bindings.values()
            for call in binding.verb.xmlrpc
        }

    async def answer(self, method: str, parameters: list[Any], request: Request) -> bytes:
        """One method call in, one encoded method response out."""
        if method.startswith("system."):
            return self._introspect(method, parameters)
        old = self.names.get(method)
        if old is None:
            return format_fault(1, f'method "{method[:200]}" is not supported')
        try:
            try:
                arguments = _read(old, parameters)
            except NodeError as error:
                raise refuse(old.binding, error, request) from error.__cause__
            result = await self._dispatcher.call(old.binding, arguments, request)
        except NodeError as error:
            # What nobody foresaw has a number of its own in this dialect (facts §1.15).
            number = UNEXPECTED if isinstance(error, GeneralFailure) else error.number
            return format_answer({"status": {"code": number, "message": str(error)}})
        message = "OK" if old.binding.verb.name.split(".")[0] in STORAGE else "Done"
        return format_answer({"status": {"code": 0, "message": message}, **self._members(old, result, request)})

    @staticmethod
    def _members(old: OldName, result: Any, request: Request) -> dict[str, Any]:
        if result is None:
            nothing = {} if old.call.member == "vmList" else ""
            return {} if old.call.member is None else {old.call.member: nothing}
        form = old.binding.shape.full
        value = result if form is None else form(result)
        if old.call.name in SPREAD:
            return dict(value)
        if old.call.name == "getVmStats":
            value = [value]
        if old.call.name == "getVdsCapabilities":
            value = {**value, "lastClient": request.client_host}
        return {} if old.call.member is None else {old.call.member: value}

    def _introspect(self, method: str, parameters: list[Any]) -> bytes:
        if method == "system.listMethods":
            return format_answer(
                sorted([*self.names, "system.listMethods", "system.methodHelp", "system.methodSignature"])
            )
        old = self.names.get(str(parameters[0])) if parameters else None
        if method == "system.methodHelp":
            return format_answer(old.binding.verb.doc if old else "")
        if method == "system.methodSignature":
            return format_answer("signatures not supported")
        return format_fault(1, f'method "{method[:200]}" is not supported')


def _read(old: OldName, parameters: list[Any]) -> dict[str, Any]:
    """The verb's arguments of what was given by position. Raises NodeError."""
    verb = old.binding.verb
    if len(parameters) > len(old.parameters):
        fault = BadValue(old.call.name, f"takes {len(old.parameters)} parameters, got {len(parameters)}")
        raise invalid(verb, fault)
    given = dict(DEFAULTS.get(old.call.name, {}))
    for place, value in zip(old.parameters, parameters, strict=False):
        if place is not None and value is not None:
            wire, empty_is_none = place
            if not (empty_is_none and value == ""):
                given[wire] = value
    adjust = ADJUST.get(old.call.name)
    if adjust is not None:
        adjust(given)
    try:
        return old.binding.shape.decode(given)
    except BadValue as error:
        raise invalid(verb, error) from error
