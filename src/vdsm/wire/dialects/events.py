"""Events in their two encodings: our JSON for server-sent events, the oVirt notification for STOMP (facts §1.8)."""

from typing import Any

import msgspec

from vdsm.api.events import EVENTS, OVIRT_NAMES, Event, VmStatusChanged
from vdsm.api.vm_types import VmStats
from vdsm.core.clock import Clock
from vdsm.wire.dialects.forms import Forms

START_MS = 2**31 - 1


def get_notify_time_ms(clock: Clock) -> int:
    """The number that orders events and statuses; only its growth means anything."""
    return START_MS + int(clock.monotonic() * 1000)


class EventDialect:
    """Encodes events; `describe_ovirt` and `describe` publish their shapes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._forms = Forms()
        self._encode = {kind: self._forms.get(kind) for kind in EVENTS}

    def format_ovirt(self, event: Event) -> tuple[str, dict[str, Any]]:
        """The notification's method and parameters."""
        encode = self._encode[type(event)].encode
        details: dict[str, Any] = {} if encode is None else encode(event)
        stamp = {"notify_time": get_notify_time_ms(self._clock)}
        if isinstance(event, VmStatusChanged):
            details |= details.pop("stats", {})
            if event.exit_code is msgspec.UNSET:
                details.pop("vmId", None)
            details["status"] = event.status
            return f"{OVIRT_NAMES[type(event)]}{event.vm_id}", {event.vm_id: details, **stamp}
        return f"{OVIRT_NAMES[type(event)]}{event.task_id}", {**details, **stamp}

    @staticmethod
    def format_json(event: Event) -> bytes:
        """The event as server-sent events carry it."""
        return msgspec.json.encode(event)

    @staticmethod
    def get_name(event: Event) -> str:
        """The event's kind, such as `vm.status`."""
        return str(type(event).__struct_config__.tag)


def describe_events() -> dict[str, Any]:
    """Both encodings of every event, for schema/events.json."""
    schemas, components = msgspec.json.schema_components(EVENTS, ref_template="#/components/{name}")
    forms = Forms()
    details = forms.get(VmStats)
    for kind in EVENTS:
        forms.get(kind)
    events = {
        OVIRT_NAMES[kind]: {
            "params": [{"name": "notify_time", "type": "uint"}, {"name": "no_name", "type": _payload(forms, kind)}],
        }
        for kind in EVENTS
    }
    forms.types["VmStatusMap"] = {"kind": "map", "key": "UUID", "value": "VmStatusDetails"}
    own = [f for f in forms.types["VmStatusChanged"]["fields"] if f["name"] not in ("stats", "vmId")]
    known = {f["name"] for f in own}
    extra = [{**f, "optional": True} for f in forms.types[str(details.schema)]["fields"] if f["name"] not in known]
    forms.types["VmStatusDetails"] = {"kind": "object", "fields": own + extra}
    return {"events": {str(kind.__struct_config__.tag): schema for kind, schema in zip(EVENTS, schemas, strict=True)}, "components": components, "ovirt": {"types": dict(sorted(forms.types.items())), "events": events}}


def _payload(forms: Forms, kind: type[Event]) -> str:
    return "VmStatusMap" if kind is VmStatusChanged else str(forms.get(kind).schema)
