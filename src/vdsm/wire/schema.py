"""Writes the published contract, `schema/*.json`, from the declarations: `python -m vdsm.wire.schema DIR`."""

import importlib
import json
import pkgutil
import sys
from pathlib import Path
from typing import Any

import vdsm
from vdsm.api.catalogue import list_all_verbs
from vdsm.core.errors import ERRORS
from vdsm.settings import settings_schema
from vdsm.wire.dialects.events import describe_events
from vdsm.wire.dialects.ovirt import OvirtDialect
from vdsm.wire.openapi import describe_api


def describe_errors() -> dict[str, Any]:
    """Every declared failure by its stable code. The daemon's parts declare them as they are imported."""
    return {
        code: {
            "number": kind.number,
            "http": kind.http,
            "retry": kind.retry,
            "text": kind.text,
            "meaning": (kind.__doc__ or "").strip(),
        }
        for code, kind in sorted(ERRORS.items())
    }


def _import_failures() -> None:
    """Failures are known once the modules that declare them are imported: `errors` and `ports` of every part."""
    for module in pkgutil.walk_packages(vdsm.__path__, "vdsm."):
        if module.name.rpartition(".")[2].startswith(("errors", "ports")):
            importlib.import_module(module.name)


def describe_all() -> dict[str, Any]:
    """The documents by file name."""
    verbs = list_all_verbs()
    events = describe_events()
    ovirt = OvirtDialect(verbs).get_schema()
    jsonrpc = {**ovirt, "event_types": events["ovirt"]["types"], "events": events["ovirt"]["events"]}
    return {
        "jsonrpc.json": jsonrpc,
        "openapi.json": describe_api(verbs),
        "events.json": {"events": events["events"], "components": events["components"]},
        "errors.json": describe_errors(),
        "settings.json": settings_schema(),
    }


def main() -> None:
    """Write the documents into the folder given."""
    _import_failures()
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "schema")
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in describe_all().items():
        (folder / name).write_text(
            json.dumps(document, indent=1, sort_keys=name != "openapi.json", ensure_ascii=False) + "\n"
        )
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main()
