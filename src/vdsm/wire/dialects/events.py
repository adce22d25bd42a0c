"""Events in their two encodings: our JSON for server-sent events, the oVirt notification for STOMP (facts §1.8)."""

from typing import Any

import msgspec

from vdsm.api.events import EVENTS, OVIRT_NAMES, Event, JobEnded, MigrationProgressed, TaskChanged, VmStatusChanged
from vdsm.api.vm_types import VmStats
from vdsm.core.clock import Clock
from vdsm.wire.dialects.forms import Forms

START_MS = 2**31 - 1
NO_ERROR = "NOERR"
"""The code of a pause that was asked for: statistics tell it, the notification of that pause does not."""


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
            if event.pause_code == NO_ERROR:
                details.pop("pauseCode", None)
            details["status"] = event.status
            return f"{OVIRT_NAMES[type(event)]}{event.vm_id}", {event.vm_id: details, **stamp}
        if isinstance(event, MigrationProgressed):
            del details["vmId"]
            return f"{OVIRT_NAMES[type(event)]}{event.vm_id}", {event.vm_id: details, **stamp}
        if isinstance(event, JobEnded):
            object_id = event.job_id
        else:
            object_id = event.task_id if isinstance(event, TaskChanged) else event.domain_id
        return f"{OVIRT_NAMES[type(event)]}{object_id}", {**details, **stamp}

    @staticmethod
    def format_json(event: Event) -> bytes:
        """The event as server-sent events carry it."""
        return msgspec.json.encode(event)

    @staticmethod
    def get_name(event: Event) -> str:
        """The event's kind, such as `vm.status`."""
        return str(type(event).__struct_config__.tag)


DECLARED: dict[str, Any] = {"elapsedTime": "uint", "monitorResponse": "int", "displayInfo": ["EventDisplayInfo"]}
"""Members whose published type differs from what travels (facts §1.8): numbers are announced, text is sent."""

_PAYLOAD_NAMES: dict[type[Event], str] = {MigrationProgressed: "VmMigrationStatus"}

DECLARED_OF_JOBS = {"status": "string", "error": "string"}
"""The same for the end of a job; an error travels as an object of code and message."""


def describe_events() -> dict[str, Any]:
    """Both encodings of every event, for schema/events.json and schema/jsonrpc.json."""
    schemas, components = msgspec.json.schema_components(EVENTS, ref_template="#/components/{name}")
    names = [str(kind.__struct_config__.tag) for kind in EVENTS]
    return {"events": dict(zip(names, schemas, strict=True)), "components": components, "ovirt": _describe_ovirt()}


def _describe_ovirt() -> dict[str, Any]:
    forms = Forms()
    payloads = {kind: str(forms.get(kind).schema) for kind in EVENTS} | {VmStatusChanged: "VmStatusMap"}
    stats = forms.types[str(forms.get(VmStats).schema)]["fields"]
    own = [field for field in forms.types["VmStatusChanged"]["fields"] if field["name"] not in ("stats", "vmId")]
    members = {field["name"]: {**field, "optional": True} for field in stats} | {field["name"]: field for field in own}
    for name, declared in DECLARED.items():
        members[name] = {**members[name], "type": declared}
    display = [
        {**field, "type": "uint"} if field["name"] in ("port", "tlsPort") else field
        for field in forms.types["DisplayInfo"]["fields"]
    ]
    types = {
        **forms.types,
        "EventDisplayInfo": {"kind": "object", "fields": display},
        "VmStatusDetails": {"kind": "object", "fields": list(members.values())},
        "VmStatusMap": {"kind": "map", "key": "UUID", "value": "VmStatusDetails"},
    }
    job = [{**f, "type": DECLARED_OF_JOBS.get(f["name"], f["type"])} for f in types["JobEnded"]["fields"]]
    types["JobEnded"] = {"kind": "object", "fields": job}
    stamp: dict[str, Any] = {"name": "notify_time", "type": "uint"}
    moves = types["MigrationProgressed"]
    types["MigrationProgressed"] = {**moves, "fields": [field for field in moves["fields"] if field["name"] != "vmId"]}
    types["VmMigrationStatusMap"] = {"kind": "map", "key": "UUID", "value": payloads[MigrationProgressed]}
    payloads[MigrationProgressed] = "VmMigrationStatusMap"
    events = {
        OVIRT_NAMES[kind]: {"params": [stamp, {"name": _PAYLOAD_NAMES.get(kind, "no_name"), "type": payload}]}
        for kind, payload in payloads.items()
    }
    # Published so, though all its members stand beside each other.
    subject = [{"name": "id", "type": "UUID"}, {"name": "job_info", "type": payloads[JobEnded]}]
    events[OVIRT_NAMES[JobEnded]] = {"params": [*subject, {**stamp, "optional": True}]}
    return {"types": dict(sorted(types.items())), "events": events}
