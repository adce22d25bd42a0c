"""One call, whatever transport brought it: authorise, parse, call, map errors; bytes and frames are left to the transports."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from vdsm.api.declare import Verb, list_verbs
from vdsm.core.context import Request, set_request
from vdsm.core.errors import ERRORS, GeneralFailure, InvalidArgument, NodeError, NotAllowed
from vdsm.core.masking import mask
from vdsm.wire.dialects.forms import BadValue
from vdsm.wire.dialects.ovirt import OvirtDialect, Shape
from vdsm.wire.errors import MethodNotFound

log = logging.getLogger("api")

Method = Callable[..., Awaitable[Any]]
SLOW_S = 1.0
"""Calls that take longer are logged with their duration (facts §1.5)."""


class Mismatch(Exception):
    """The surface and what implements it do not fit; the daemon must not start."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A declared verb and the method that does it."""

    verb: Verb
    shape: Shape
    method: Method


def bind(surface: Mapping[type, object]) -> dict[str, Binding]:
    """Join every declared verb to its implementation, by our names; raises Mismatch naming all that do not fit."""
    verbs: list[tuple[Verb, object]] = [(verb, service) for protocol, service in surface.items() for verb in list_verbs(protocol)]
    dialect = OvirtDialect(tuple(verb for verb, _ in verbs))
    faults = []
    bindings: dict[str, Binding] = {}
    for verb, service in verbs:
        method = getattr(service, verb.name.split(".")[1], None)
        if method is None:
            faults.append(f"{verb.name} is declared, but {type(service).__name__} does not have it")
            continue
        faults += [f"{verb.name} names the unknown failure {code}" for code in (*verb.fails, verb.invalid) if code not in ERRORS]
        if verb.name in bindings:
            faults.append(f"{verb.name} is declared twice")
        bindings[verb.name] = Binding(verb, dialect.shapes[verb.ovirt], method)
    for protocol, service in surface.items():
        declared = {verb.name.split(".")[1] for verb in list_verbs(protocol)}
        stray = getattr(service, "__verbs__", declared) - declared
        faults += [f"{type(service).__name__}.{name} is bound, but not declared" for name in sorted(stray)]
    if faults:
        raise Mismatch("; ".join(faults))
    return bindings


def invalid(verb: Verb, error: BadValue) -> NodeError:
    """The failure that a verb's group declares for malformed parameters."""
    declared = ERRORS.get(verb.invalid, InvalidArgument)
    return declared(error.where, error.reason)


class Dispatcher:
    """Calls verbs for all transports. `gate` tells why the daemon is not ready yet, or None."""

    def __init__(self, bindings: Mapping[str, Binding], gate: Callable[[], NodeError | None] = lambda: None) -> None:
        self.bindings = bindings
        self._by_ovirt = {binding.verb.ovirt: binding for binding in bindings.values()}
        self._gate = gate
        self._void = b"true"

    async def invoke(self, method: str, params: msgspec.Raw, request: Request) -> bytes:
        """One oVirt JSON-RPC call: encoded parameters in, the encoded result out; raises NodeError or MethodNotFound."""
        binding = self._by_ovirt.get(method)
        if binding is None:
            gate = self._gate()
            if gate is not None:
                raise gate
            raise MethodNotFound(method)
        try:
            given = msgspec.json.decode(params) if params else {}
            arguments = binding.shape.decode(given)
        except BadValue as error:
            raise invalid(binding.verb, error) from error
        result = await self.call(binding, arguments, request)
        if binding.shape.returns is None and result is None and binding.shape.encode is not None:
            return msgspec.json.encode(binding.shape.encode(result))
        encode = binding.shape.encode
        return msgspec.json.encode(result if encode is None else encode(result))

    async def call(self, binding: Binding, arguments: Mapping[str, Any], request: Request) -> Any:
        """Do a verb whose parameters are parsed; every failure comes out as NodeError. This is the transports' one door
        for unforeseen exceptions: they are logged with their trace and answered as a general failure."""
        verb = binding.verb
        if request.right < verb.needs:
            raise NotAllowed(verb.name, verb.needs.name.lower())
        gate = self._gate()
        if gate is not None and verb.name not in ("host.ping2", "host.echo"):
            raise gate
        set_request(request)
        debug = log.isEnabledFor(logging.DEBUG)
        if debug:
            log.debug("START %s(%s)", verb.ovirt, mask(arguments))
        start = time.monotonic()
        try:
            result = await binding.method(**arguments)
        except NodeError as error:
            log.info("FINISH %s error=%s (%.2f s)", verb.ovirt, error, time.monotonic() - start)
            raise
        except Exception as error:
            log.exception("FINISH %s error=%r", verb.ovirt, error)
            raise GeneralFailure(f"('{type(error).__name__}',)") from error
        took = time.monotonic() - start
        if took > SLOW_S:
            log.info("FINISH %s in %.2f s", verb.ovirt, took)
        elif debug:
            log.debug("FINISH %s return=%s", verb.ovirt, mask(result))
        return result
