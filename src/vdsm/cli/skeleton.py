"""What a verb takes, told for people: one line for each argument, and the JSON for `-f` with types for values."""

import json
from collections.abc import Mapping, Sequence

from vdsm.api.declare import Verb
from vdsm.wire.dialects.ovirt import OvirtDialect

_DEEPEST = 8
"""Deeper shapes are shown by name; no declared one goes so deep."""


def format_arguments(verb: Verb) -> list[str]:
    """`<argument>: <description>`, in the order of the wire."""
    lines = []
    for parameter in verb.parameters:
        note = "" if parameter.required else " (may be left out)"
        lines.append(f"{parameter.ovirt.name}: {parameter.doc or parameter.name.replace('_', ' ')}{note}")
    return lines


def format_skeleton(verb: Verb) -> str:
    """The verb's parameters as JSON with the names of types; the words of an enumeration are joined by `|`."""
    schema = OvirtDialect((verb,)).get_schema()
    shapes: Mapping[str, object] = schema["types"]
    parameters = schema["verbs"][verb.ovirt]["params"]
    skeleton = {parameter["name"]: _expand(shapes, parameter["type"], 0) for parameter in parameters}
    return json.dumps(skeleton, indent=4)


def _expand(shapes: Mapping[str, object], kind: object, depth: int) -> object:
    if isinstance(kind, list):
        return [_expand(shapes, kind[0], depth)]
    shape = shapes.get(str(kind))
    if not isinstance(shape, Mapping) or depth == _DEEPEST:
        return kind
    if shape["kind"] == "object":
        return {field["name"]: _expand(shapes, field["type"], depth + 1) for field in shape["fields"]}
    if shape["kind"] == "map":
        return {f"<{shape['key']}>": _expand(shapes, shape["value"], depth + 1)}
    return _format_words(shape["values"]) if shape["kind"] == "enum" else kind


def _format_words(words: Sequence[object]) -> str:
    unique: dict[str, str] = {}
    for word in words:  # the published schema lists what differs in case only, too
        unique.setdefault(str(word).lower(), str(word))
    return "|".join(unique.values())
