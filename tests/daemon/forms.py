"""What the declarations say an answer looks like, read anew and by other means than the daemon's own converters."""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Struct, UnsetType

from vdsm.api.declare import Ovirt

NO_NOTE = Ovirt("")


def _split(hint: Any) -> tuple[Any, Ovirt]:
    """The bare type, and what is noted of it; a union stands for its one type that is neither null nor absent."""
    note = NO_NOTE
    while True:
        if get_origin(hint) is Annotated:
            note = next((extra for extra in get_args(hint)[1:] if isinstance(extra, Ovirt)), note)
            hint = get_args(hint)[0]
        elif get_origin(hint) in (Union, types.UnionType):
            (hint,) = (arg for arg in get_args(hint) if arg not in (UnsetType, type(None)))
        else:
            return hint, note


def _list_fields(struct: type[Struct]) -> list[tuple[str, str, Any]]:
    """Our name, the wire's name, the type."""
    hints = get_type_hints(struct, include_extras=True)
    names = [field.name for field in msgspec.structs.fields(struct)]
    return [(name, _split(hints[name])[1].name or name, hints[name]) for name in names]


def to_ours(hint: Any, value: Any) -> Any:
    """An answer of an oVirt dialect under our names, with numbers for text; fails on members nobody declared."""
    bare, note = _split(hint)
    if isinstance(bare, type) and issubclass(bare, Struct):
        known = _list_fields(bare)
        strangers = set(value) - {wire for _, wire, _ in known}
        assert not strangers, f"{bare.__name__} does not declare {strangers}"
        return {ours: to_ours(inner, value[wire]) for ours, wire, inner in known if wire in value}
    if get_origin(bare) is list:
        return [to_ours(get_args(bare)[0], item) for item in value]
    if get_origin(bare) is dict:
        return {key: to_ours(get_args(bare)[1], item) for key, item in value.items()}
    return _to_scalar(bare, note, value)


def _to_scalar(bare: Any, note: Ovirt, value: Any) -> Any:
    if bare is bool and note.as_ is str:
        words = (note.format % False, note.format % True) if note.format else ("false", "true")
        return bool(words.index(value))
    if note.as_ is str and bare in (int, float):
        assert isinstance(value, str), f"{note.name} must travel as text, got {value!r}"
    elif bare is int and isinstance(value, str):
        assert abs(int(value)) >= 2**31, f"{note.name} must travel as number, got {value!r}"
    if bare in (int, float):
        return bare(value)
    fits = value in get_args(bare) if get_origin(bare) is Literal else isinstance(value, bare)
    assert fits, f"{note.name}: {value!r}"
    return value


def to_plain(hint: Any, value: Any) -> Any:
    """A typed answer as plain values under our names, as exact as the oVirt dialects can tell it."""
    bare, note = _split(hint)
    if isinstance(bare, type) and issubclass(bare, Struct):
        members = ((name, getattr(value, name), inner) for name, _, inner in _list_fields(bare))
        return {name: to_plain(inner, item) for name, item, inner in members if item is not UNSET}
    if get_origin(bare) is list:
        return [to_plain(get_args(bare)[0], item) for item in value]
    if get_origin(bare) is dict:
        return {key: to_plain(get_args(bare)[1], item) for key, item in value.items()}
    if bare is float:
        return float(note.format % value) if note.format else float(value)
    return value
