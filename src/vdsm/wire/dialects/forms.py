"""How a declared type looks in the oVirt dialects: encoder, decoder and published schema; verbs are left to `ovirt`."""

import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from vdsm.api.declare import Ovirt
from vdsm.core.errors import shorten
from vdsm.core.masking import MASK, is_secret

Encode = Callable[[Any], Any]
Decode = Callable[[Any, str], Any]
Schema = str | list[Any]

NUMBER_LIMIT = 2**63
"""No figure of a node needs more; larger ones, infinity and what is no number are refused at the door."""

LONGEST_TEXT = 300
"""Characters of an error's parts: what was sent is not sent back whole, nor logged."""

PRIMITIVES: dict[Any, str] = {str: "string", int: "int", float: "float", bool: "boolean"}


class BadValue(Exception):
    """A value does not fit its declaration; `where` names it in the caller's words."""

    def __init__(self, where: str, reason: str) -> None:
        self.where = where[:LONGEST_TEXT]
        self.reason = reason[:LONGEST_TEXT]
        super().__init__(f"{self.where}: {self.reason}")


class Form(Struct, frozen=True):
    """A type in the dialect: `encode` is None where a value travels as it is."""

    schema: Schema
    encode: Encode | None
    decode: Decode
    optional: bool = False


def describe(value: Any, where: str = "") -> str:
    """A value as an error may show it: short, never a whole document, never a secret's."""
    if is_secret(where.rpartition(".")[2]):
        return MASK
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def format_text(value: Any) -> str:
    """A number or boolean as the old dialects print it."""
    if value is True:
        return "true"
    return "false" if value is False else str(value)


def _leaf(hint: Any, *, loose: bool, text_only: bool) -> Decode:
    base = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    wants_text = base is str

    def decode(value: Any, where: str) -> Any:
        if text_only and not (isinstance(value, str) and _is_decimal(value)):
            raise BadValue(where, f"expected a number as text, got {describe(value, where)}")
        if wants_text and loose and isinstance(value, (bool, int, float)):
            value = format_text(value)
        if isinstance(value, bool) and base in (int, float):
            raise BadValue(where, f"expected {PRIMITIVES[base]}, got {describe(value, where)}")
        try:
            result = msgspec.convert(value, hint, strict=False)
        except msgspec.ValidationError as error:
            raise BadValue(where, f"{shorten(str(error), 100)}, got {describe(value, where)}") from error
        if base in (int, float) and not -NUMBER_LIMIT <= result < NUMBER_LIMIT:
            raise BadValue(where, f"out of range: {describe(value, where)}")
        return result

    return decode


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdecimal()


def _with_words(decode: Decode, words: Any) -> Decode:
    def translate(value: Any, where: str) -> Any:
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            value = words.get(str(value).upper(), value)
        return decode(value, where)

    return translate


def _with_short(decode: Decode, member: str) -> Decode:
    return lambda value, where: decode({member: value} if isinstance(value, str) else value, where)


class Forms:
    """All types met so far, with the named ones gathered for the published schema.

    `loose` names the Structs in which a number or boolean may stand where text is due, as scripts of 2011 write them.
    """

    def __init__(self, loose: tuple[type[Struct], ...] = ()) -> None:
        self.types: dict[str, dict[str, Any]] = {"UUID": {"kind": "alias", "of": "string"}}
        self._structs: dict[type, Form] = {}
        self._loose = loose

    def get(self, hint: Any, note: Ovirt | None = None, *, loose: bool = False) -> Form:
        """The form of a type; `note` carries what its declaration says of the wire."""
        metas: list[Meta] = []
        while get_origin(hint) is Annotated:
            args = get_args(hint)
            hint = args[0]
            metas += [a for a in args[1:] if isinstance(a, Meta)]
            note = next((a for a in args[1:] if isinstance(a, Ovirt)), note)
        if get_origin(hint) in (Union, types.UnionType):
            inner = [a for a in get_args(hint) if a not in (UnsetType, type(None))]
            form = self.get(inner[0], note, loose=loose)
            return Form(form.schema, form.encode, form.decode, True)
        for meta in metas:
            hint = Annotated[hint, meta]
        return self._form(hint, note, loose)

    def _form(self, hint: Any, note: Ovirt | None, loose: bool) -> Form:
        origin = get_origin(hint)
        if isinstance(hint, type) and issubclass(hint, Struct):
            form = self._struct(hint)
            if note is not None and note.declared:
                form = replace(form, schema=note.declared)
            if note is not None and note.short is not None:
                form = replace(form, decode=_with_short(form.decode, note.short))
            return replace(form, schema=[form.schema]) if note is not None and note.listed else form
        if origin is list:
            return self._list(self.get(get_args(hint)[0], loose=loose), note)
        if origin is dict:
            return self._map(self.get(get_args(hint)[1], loose=loose), note)
        return self._scalar(hint, note, loose)

    def _scalar(self, hint: Any, note: Ovirt | None, loose: bool) -> Form:
        decode = _leaf(hint, loose=loose, text_only=bool(note and note.text_only))
        if note is not None and note.words:
            decode = _with_words(decode, note.words)
        base = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        encode: Encode | None = None
        schema: Schema
        if get_origin(base) is Literal:
            words = note.words if note is not None and note.words else {}
            schema = self._enum([*get_args(base), *(word for word in words if not word.isdigit())])
        else:
            schema = PRIMITIVES[base]
        if note is not None and note.as_ is str and base is not str:
            schema, encode = "string", format_text
            if note.format:
                pattern = note.format
                encode = lambda value: pattern % value  # noqa: E731
        if note is not None and note.declared:
            schema = note.declared
        return Form(schema, encode, decode)

    def _enum(self, values: list[Any]) -> str:
        unique = list(dict.fromkeys(values))
        for name, known in self.types.items():
            if known.get("values") == unique:
                return name
        name = f"Enum{sum(t['kind'] == 'enum' for t in self.types.values()) + 1}"
        self.types[name] = {"kind": "enum", "values": unique}
        return name

    def _list(self, item: Form, note: Ovirt | None) -> Form:
        def decode(value: Any, where: str) -> Any:
            if not isinstance(value, (list, tuple)):
                raise BadValue(where, f"expected a list, got {describe(value)}")
            return [
                None if v is None and item.optional else item.decode(v, f"{where}[{i}]") for i, v in enumerate(value)
            ]

        inner = item.encode
        encode: Encode | None = None if inner is None else (lambda value: [inner(v) for v in value])
        schema: Schema = note.declared if note is not None and note.declared else [item.schema]
        return Form(schema, encode, decode)

    def _map(self, item: Form, note: Ovirt | None) -> Form:
        def decode(value: Any, where: str) -> Any:
            if not isinstance(value, dict):
                raise BadValue(where, f"expected an object, got {describe(value)}")
            return {_key(k, where): item.decode(v, f"{where}.{describe(k)}") for k, v in value.items()}

        inner = item.encode
        encode: Encode | None = None if inner is None else (lambda value: {k: inner(v) for k, v in value.items()})
        return Form(self._named_map(item.schema, note), encode, decode)

    def _named_map(self, value: Schema, note: Ovirt | None) -> str:
        if note is not None and note.declared:
            # The published schema has a second way to say "map": an object whose one field stands for any key.
            self.types[note.declared] = {"kind": "object", "fields": [{"name": "any_string", "type": value}]}
            return note.declared
        many, item = ("ListOf", value[0]) if isinstance(value, list) else ("", value)
        name = f"{many}{item.capitalize()}Map"
        self.types.setdefault(name, {"kind": "map", "key": "string", "value": value})
        return name

    def _struct(self, struct: type[Struct]) -> Form:
        known = self._structs.get(struct)
        if known is not None:
            return known
        fields = []
        loose = struct in self._loose
        hints = get_type_hints(struct, include_extras=True)
        for field in msgspec.structs.fields(struct):
            hint = hints[field.name]
            note = (
                next((a for a in get_args(hint)[1:] if isinstance(a, Ovirt)), None)
                if get_origin(hint) is Annotated
                else None
            )
            form = self.get(hint, loose=loose)
            fields.append((field.name, note.name if note else field.name, form, field.required))
        form = Form(struct.__name__, _struct_encoder(fields), _struct_decoder(struct, fields))
        self._structs[struct] = form
        self.types[struct.__name__] = {
            "kind": "object",
            "fields": [
                {"name": name, "type": f.schema} | ({} if required and not f.optional else {"optional": True})
                for _, name, f, required in fields
            ],
        }
        return form


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise BadValue(where, f"expected text as key, got {describe(key)}")
    return key


def _struct_encoder(fields: list[tuple[str, str, Form, bool]]) -> Encode:
    plan = [(attribute, name, form.encode) for attribute, name, form, _ in fields]

    def encode(value: Any) -> Any:
        out = {}
        for attribute, name, inner in plan:
            item = getattr(value, attribute)
            if item is UNSET or item is None:
                continue
            out[name] = item if inner is None else inner(item)
        return out

    return encode


def _struct_decoder(struct: type[Struct], fields: list[tuple[str, str, Form, bool]]) -> Decode:
    def decode(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise BadValue(where, f"expected an object, got {describe(value)}")
        given = {}
        for attribute, name, form, required in fields:
            item = value.get(name)
            if item is not None:
                given[attribute] = form.decode(item, f"{where}.{name}")
            elif required:
                raise BadValue(f"{where}.{name}", "missing")
        return struct(**given)

    return decode
