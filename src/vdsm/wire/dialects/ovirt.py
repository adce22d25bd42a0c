"""The oVirt dialect of every verb: how its parameters are read and its result is written; transports come elsewhere."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from vdsm.api import vm
from vdsm.api.declare import Verb
from vdsm.api.devices import MemoryModule
from vdsm.api.storage_types import Connection
from vdsm.api.task import TaskStatus
from vdsm.api.updates import Disc, DiscChange
from vdsm.wire.dialects.forms import BadValue, Encode, Form, Forms, Schema
from vdsm.wire.errors import InvalidParams

LOOSE = (
    *(vm.VmParameters, vm.DeviceSpec, vm.DeviceParameters, vm.DeviceAddress, vm.DriveSpec, Connection),
    *(MemoryModule, Disc, DiscChange, vm.Bandwidth, vm.ChainVolume, vm.DiskSecret, vm.DiskServer, vm.FilterParameter),
)

_TELLS_DONE = {f"VM.{name}" for name in ("setBalloonTarget", "setCpuTunePeriod", "setCpuTuneQuota", "setIoTune")}
_TELLS_DONE |= {"VM.updateVmPolicy", "VM.stop_backup"}
"""Verbs whose result is the status itself (facts §1.6)."""


class Shape(Struct, frozen=True):
    """A verb in the dialect: `encode` turns the result into what JSON-RPC carries (None: as it is)."""

    verb: Verb
    parameters: tuple[tuple[str, str, Form, bool, Any], ...]
    """Our name, the wire's name, the form, whether it must be given, the default."""
    encode: Encode | None
    returns: Schema | None
    full: Encode | None
    """The whole result in the dialect's names, for transports that carry more of it than JSON-RPC does."""

    def decode(self, given: Any) -> dict[str, Any]:
        """Read named (object) or positional (array) parameters; unknown names are dropped (facts §1.5).

        Raises BadValue for a parameter that does not fit, InvalidParams for too many of them.
        """
        if isinstance(given, list):
            if len(given) > len(self.parameters):
                raise InvalidParams(f"{self.verb.ovirt} takes {len(self.parameters)} parameters, got {len(given)}")
            given = {wire: value for (_, wire, *_), value in zip(self.parameters, given, strict=False)}
        arguments = {}
        for name, wire, form, required, default in self.parameters:
            value = given.get(wire)
            if value is not None:
                arguments[name] = form.decode(value, wire)
            elif not required:
                arguments[name] = default
            elif form.optional:
                arguments[name] = None
            else:
                raise BadValue(wire, "missing")
        return arguments


def _first(encode: Encode) -> Encode:
    return lambda value: [encode(value)]


def _path_only(value: Any) -> Any:
    return {"path": value.path}


def _with_listed_bitmaps(encode: Encode) -> Encode:
    def listed(value: Any) -> Any:
        info = encode(value)
        if "bitmaps" in info:
            info["bitmaps"] = [[one["name"], one["granularity"], one["flags"]] for one in info["bitmaps"]]
        return info

    return listed


def _no_vms(value: Any) -> Any:
    return {"vmList": {}}


def _nothing(value: Any) -> Any:
    return {}


_PLUGS = ("hotplugDisk", "hotunplugDisk", "hotunplugNic", "hotplugMemory", "hotplugLease", "hotunplugLease")
_UPDATES = ("changeCD", "changeFloppy", "updateDevice", "setNumberOfCpus")
_TELLS_NO_VM: Mapping[str, Encode] = {
    **dict.fromkeys(("VM.pause", "VM.cont"), _no_vms),
    **dict.fromkeys([f"VM.{name}" for name in (*_PLUGS, *_UPDATES)], _nothing),
}
"""Published as a VM's definition, and never more than these (facts §1.6)."""


_LISTED = {"Host.dumpxmls", "VM.dump_checkpoint", "VM.delete_checkpoints", "VM.redefine_checkpoints"}
"""Published as a list of what is told as it is (facts §2.5, §2.18)."""


def _done(value: Any) -> Any:
    return {"code": 0, "message": "Done"}


class OvirtDialect:
    """Derives the shape of every verb; `types` gathers the named types for `schema/jsonrpc.json`."""

    def __init__(self, verbs: tuple[Verb, ...]) -> None:
        self.forms = Forms(LOOSE)
        self.shapes = {verb.ovirt: self._shape(verb) for verb in verbs}

    def _shape(self, verb: Verb) -> Shape:
        parameters = tuple(
            (p.name, p.ovirt.name, self.forms.get(p.type), p.required, None if p.required else p.default)
            for p in verb.parameters
        )
        encode, returns = self._result(verb)
        full = None if verb.returns is type(None) else self.forms.get(verb.returns).encode
        return Shape(verb, parameters, encode, returns, full)

    def _result(self, verb: Verb) -> tuple[Encode | None, Schema | None]:
        if verb.ovirt in _TELLS_NO_VM:
            return _TELLS_NO_VM[verb.ovirt], self.forms.get(vm.VmInfo).schema
        if verb.ovirt in _TELLS_DONE:
            return _done, self.forms.get(TaskStatus).schema
        if verb.returns is type(None):
            return (lambda value: True), None
        form = self.forms.get(verb.returns)
        if verb.ovirt == "VM.hotplugNic":
            return form.encode, self.forms.get(vm.VmInfo).schema
        if verb.ovirt == "VM.getStats" and form.encode is not None:
            return _first(form.encode), [form.schema]
        if verb.ovirt in _LISTED:
            return form.encode, [form.schema]
        if verb.ovirt == "Volume.getQemuImageInfo" and form.encode is not None:
            return _with_listed_bitmaps(form.encode), form.schema
        if verb.ovirt == "Image.prepare":
            return _path_only, form.schema
        return form.encode, form.schema

    def get_schema(self) -> dict[str, Any]:
        """The verbs and types in the shape of the published schema."""
        return {
            "types": dict(sorted(self.forms.types.items())),
            "verbs": {n: _describe(s) for n, s in sorted(self.shapes.items())},
        }


def _describe(shape: Shape) -> dict[str, Any]:
    described: dict[str, Any] = {"params": [_parameter(*p) for p in shape.parameters]}
    if shape.returns is not None:
        described["returns"] = shape.returns
    return described


def _parameter(name: str, wire: str, form: Form, required: bool, default: Any) -> dict[str, Any]:
    described: dict[str, Any] = {"name": wire, "type": form.schema}
    if not required:
        described |= {"optional": True, "default": default}
    return described
