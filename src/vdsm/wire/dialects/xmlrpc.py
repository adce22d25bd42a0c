"""The dialect of 2011: positional calls with old names, answers as structs with a status (facts §1.15); HTTP is left to `web`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.parsers.expat import ExpatError
from xmlrpc.client import Fault, ResponseError, Unmarshaller, dumps

from defusedxml import DefusedXmlException
from defusedxml.xmlrpc import DefusedExpatParser

from vdsm.api.declare import XmlRpc
from vdsm.core.context import Request
from vdsm.core.errors import NodeError
from vdsm.wire.dialects.forms import BadValue
from vdsm.wire.dispatch import Binding, Dispatcher, invalid

GIB = 1024**3
MAX_NESTING = 64
INT_LIMIT = 2**31


class BadCall(Exception):
    """The body is no XML-RPC call that can be answered."""


@dataclass(frozen=True, slots=True)
class OldName:
    """One name of 2011 and the verb behind it."""

    call: XmlRpc
    binding: Binding


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
        raise BadCall(str(error)) from error
    # The stock parser lets whatever a malformed body provokes escape; each of these was met by fuzzing.
    except (ExpatError, ResponseError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise BadCall(f"malformed call: {error}") from error
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
    return "".join(c if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff") else "?" for c in text)


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
        if isinstance(size, int) and not isinstance(size, bool):
            given[name] = str(size * GIB)
    if str(given.get("diskType")) == "8":
        given["diskType"] = "DATA"


def _create_domain(given: dict[str, Any]) -> None:
    if given.get("version") in (0, "0", None, ""):
        given["version"] = 5
    if isinstance(given.get("typeArgs"), str):
        given["typeArgs"] = {"remotePath": given["typeArgs"]}


def _connections(given: dict[str, Any]) -> None:
    for connection in given.get("connectionParams") or ():
        if isinstance(connection, dict) and "connection" not in connection and "spec" in connection:
            connection["connection"] = connection["spec"]
    if given.get("storagepoolID") is None:
        given["storagepoolID"] = ""


def _create_vm(given: dict[str, Any]) -> None:
    parameters = given.get("vmParams")
    if isinstance(parameters, dict) and isinstance(parameters.get("vmId"), str):
        given["vmID"] = parameters["vmId"]


def _spm_start(given: dict[str, Any]) -> None:
    given["enableScsiFencing"] = str(given.get("enableScsiFencing", ""))


ADJUST: dict[str, Callable[[dict[str, Any]], None]] = {
    "createVolume": _create_volume,
    "createStorageDomain": _create_domain,
    "connectStorageServer": _connections,
    "disconnectStorageServer": _connections,
    "create": _create_vm,
    "spmStart": _spm_start,
}
"""Where the calls of 2011 bend (design: the old scripts need it); names are the wire's."""

SPREAD = frozenset({"getStoragePoolInfo", "getVolumeSize", "prepareImage"})
"""Names whose result is not one member but all of them."""


class XmlRpcDialect:
    """Answers calls of 2011 through the dispatcher."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.names = {
            call.name: OldName(call, binding) for binding in dispatcher.bindings.values() for call in binding.verb.xmlrpc
        }

    async def answer(self, body: bytes, request: Request) -> bytes:
        """One method call in, one method response out; raises BadCall when the body cannot be read."""
        method, parameters = parse_call(body)
        if method.startswith("system."):
            return self._introspect(method, parameters)
        old = self.names.get(method)
        if old is None:
            return format_fault(1, f'method "{method[:200]}" is not supported')
        if method == "list" and parameters and parameters[0] in (True, 1, "True", "true"):
            old = OldName(XmlRpc("list", ("_", "vm_ids"), "vmList"), self._dispatcher.bindings["vms.list_full"])
        try:
            arguments = self._arguments(old, parameters)
            result = await self._dispatcher.call(old.binding, arguments, request)
        except NodeError as error:
            return format_answer({"status": {"code": error.number, "message": str(error)}})
        return format_answer({"status": {"code": 0, "message": "Done"}, **self._members(old, result, request)})

    def _arguments(self, old: OldName, parameters: list[Any]) -> dict[str, Any]:
        verb = old.binding.verb
        if len(parameters) > len(old.call.parameters):
            raise invalid(verb, BadValue(old.call.name, f"takes {len(old.call.parameters)} parameters, got {len(parameters)}"))
        wire = {p.name: p for p in verb.parameters}
        given: dict[str, Any] = {}
        for name, value in zip(old.call.parameters, parameters, strict=False):
            if name == "_" or value is None:
                continue
            parameter = wire[name]
            if value == "" and not parameter.required and parameter.default != "":
                continue  # this dialect has no null: an empty text stands for "not given"
            given[parameter.ovirt.name] = value
        adjust = ADJUST.get(old.call.name)
        if adjust is not None:
            adjust(given)
        try:
            return old.binding.shape.decode(given)
        except BadValue as error:
            raise invalid(verb, error) from error

    def _members(self, old: OldName, result: Any, request: Request) -> dict[str, Any]:
        if result is None:
            return {} if old.call.member is None else {old.call.member: ""}
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
            return format_answer(sorted([*self.names, "system.listMethods", "system.methodHelp", "system.methodSignature"]))
        old = self.names.get(str(parameters[0])) if parameters else None
        if method == "system.methodHelp":
            return format_answer(old.binding.verb.doc if old else "")
        if method == "system.methodSignature":
            return format_answer("signatures not supported")
        return format_fault(1, f'method "{method[:200]}" is not supported')
