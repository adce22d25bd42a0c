"""One call, whatever transport brought it: authorise, parse, call, map errors; bytes are left to the transports."""

import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from vdsm.api.declare import Verb, list_verbs
from vdsm.core.context import INTERNAL, Request, Right, set_request
from vdsm.core.errors import ERRORS, GeneralFailure, InvalidArgument, NodeError, NotAllowed
from vdsm.core.masking import mask
from vdsm.wire.bodies import MAX_VALUES, holds_too_many
from vdsm.wire.dialects.forms import BadValue
from vdsm.wire.dialects.ovirt import OvirtDialect, Shape
from vdsm.wire.errors import InvalidParams, MethodNotFound

log = logging.getLogger("api")

Method = Callable[..., Awaitable[Any]]
SLOW_S = 1.0
"""Calls that take longer are logged with their duration (facts §1.5)."""

LOGGED_TEXT = 2000
"""Characters of a call's parameters, of its result or of its failure that a log line shows."""

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder().decode


class Mismatch(Exception):
    """The surface and what implements it do not fit; the daemon must not start."""


class Binding(Struct, frozen=True):
    """A declared verb and the method that does it."""

    verb: Verb
    shape: Shape
    method: Method


def bind(surface: Mapping[type, object]) -> dict[str, Binding]:
    """Join every declared verb to its implementation, by our names; raises Mismatch naming all that do not fit."""
    verbs = [(verb, service) for protocol, service in surface.items() for verb in list_verbs(protocol)]
    dialect = OvirtDialect(tuple(verb for verb, _ in verbs))
    faults: list[str] = []
    bindings: dict[str, Binding] = {}
    for verb, service in verbs:
        method = getattr(service, verb.name.split(".")[1], None)
        if method is None:
            faults.append(f"{verb.name} is declared, but {type(service).__name__} does not have it")
            continue
        codes = (*verb.fails, verb.invalid)
        faults += [f"{verb.name} names the unknown failure {code}" for code in codes if code not in ERRORS]
        faults += _list_misfits(verb, method)
        bindings[verb.name] = Binding(verb, dialect.shapes[verb.ovirt], method)
    faults += _list_clashes([verb for verb, _ in verbs])
    for protocol, service in surface.items():
        declared = {verb.name.split(".")[1] for verb in list_verbs(protocol)}
        stray = getattr(service, "__verbs__", declared) - declared
        faults += [f"{type(service).__name__}.{name} is bound, but not declared" for name in sorted(stray)]
    if faults:
        raise Mismatch("; ".join(faults))
    return bindings


def _list_misfits(verb: Verb, method: Method) -> list[str]:
    """Where a method would refuse the parameters that are declared."""
    takes = inspect.signature(method).parameters
    declared = {parameter.name for parameter in verb.parameters}
    needs = {name for name, parameter in takes.items() if parameter.default is inspect.Parameter.empty}
    return [f"{method.__qualname__} does not take {name}" for name in sorted(declared - takes.keys())] + [
        f"{method.__qualname__} needs {name}" for name in sorted(needs - declared)
    ]


def _list_clashes(verbs: list[Verb]) -> list[str]:
    """Names that two verbs claim in one dialect."""
    faults = []
    seen: set[tuple[str, str]] = set()
    for verb in verbs:
        claims = [("our name", verb.name), ("JSON-RPC", verb.ovirt), ("REST", verb.http)]
        for claim in (*claims, *(("XML-RPC", call.name) for call in verb.xmlrpc)):
            if claim in seen:
                faults.append(f"{claim[1]} is declared twice ({claim[0]})")
            seen.add(claim)
    return faults


def invalid(verb: Verb, error: BadValue) -> NodeError:
    """The failure that a verb's group declares for malformed parameters."""
    declared: Callable[[str, str], NodeError] = ERRORS.get(verb.invalid, InvalidArgument)
    return declared(error.where, error.reason)


def refuse(binding: Binding, error: NodeError, request: Request) -> NodeError:
    """Log a call whose parameters could not be read; gives the error for the caller."""
    set_request(request)
    log.info("FINISH %s error=%s from=%s", binding.verb.ovirt, _shorten(error), _format_origin(request))
    return error


class Dispatcher:
    """Calls verbs for all transports. `gate` tells why the daemon is not ready yet, or None."""

    def __init__(self, bindings: Mapping[str, Binding], gate: Callable[[], NodeError | None] = lambda: None) -> None:
        self.bindings = bindings
        self._by_ovirt = {binding.verb.ovirt: binding for binding in bindings.values()}
        self._gate = gate

    async def invoke(self, method: str, params: msgspec.Raw, request: Request) -> bytes:
        """One oVirt JSON-RPC call: encoded parameters in, the encoded result out; raises NodeError."""
        gate = self._gate()
        if gate is not None:
            raise gate
        binding = self._by_ovirt.get(method)
        if binding is None:
            raise MethodNotFound(method[:200])
        try:
            arguments = _parse(binding, params)
        except NodeError as error:
            raise refuse(binding, error, request) from error.__cause__
        result = await self.call(binding, arguments, request)
        encode = binding.shape.encode
        return _encode(result if encode is None else encode(result))

    def admit(self, name: str, needs: Right, request: Request) -> None:
        """Let a request in whose task this is; raises NotAllowed, and what the gate tells."""
        gate = self._gate()
        if gate is not None:
            raise gate
        if request.right < needs:
            raise NotAllowed(name, needs.name.lower())
        set_request(request)

    async def call(self, binding: Binding, arguments: Mapping[str, Any], request: Request) -> Any:
        """Do a verb whose parameters are parsed; every failure comes out as NodeError. This is the transports' one door
        for unforeseen exceptions: they are logged with their trace and answered as a general failure."""
        verb = binding.verb
        self.admit(verb.name, verb.needs, request)
        debug = log.isEnabledFor(logging.DEBUG)
        if debug:
            log.debug("START %s(%s) from=%s", verb.ovirt, _shorten(mask(arguments)), _format_origin(request))
        start = time.monotonic()
        try:
            result = await binding.method(**arguments)
        except NodeError as error:
            took, origin = time.monotonic() - start, _format_origin(request)
            log.info("FINISH %s error=%s from=%s (%.2f s)", verb.ovirt, _shorten(error), origin, took)
            raise
        except Exception as error:
            log.exception("FINISH %s error=%r from=%s", verb.ovirt, error, _format_origin(request))
            raise GeneralFailure(f"('{type(error).__name__}',)") from error
        took = time.monotonic() - start
        if took > SLOW_S:
            log.info("FINISH %s from=%s (%.2f s)", verb.ovirt, _format_origin(request), took)
        elif debug:
            log.debug("FINISH %s return=%s from=%s", verb.ovirt, _shorten(mask(result)), _format_origin(request))
        return result


def _format_origin(request: Request) -> str:
    """As facts §1.7 have it in log lines; the flow id is added where lines are written."""
    if request.client_host == INTERNAL.client_host:
        return INTERNAL.client_host
    return f"{request.client_host},{request.client_port}"


def _shorten(value: object) -> str:
    """Large values are no matter of the log (facts §8.1)."""
    text = str(value)
    return text if len(text) <= LOGGED_TEXT else f"{text[:LOGGED_TEXT]}..."


def _parse(binding: Binding, params: msgspec.Raw) -> dict[str, Any]:
    if holds_too_many(memoryview(params)):
        raise InvalidParams(f"more than {MAX_VALUES} values")
    try:
        return binding.shape.decode(_decode(params) if params else {})
    except BadValue as error:
        raise invalid(binding.verb, error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidParams(str(error)) from error
