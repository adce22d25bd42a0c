"""Hostile values for every parameter of every verb, from the catalogue; sending them is left to `hostile_clients`."""

import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from msgspec import Struct, UnsetType, structs

from vdsm.api.catalogue import list_all_verbs
from vdsm.api.declare import Ovirt, Parameter, Verb
from vdsm.api.vm import DeviceSpec

BLANK = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Word:
    """Stands for something that is only known when the value is sent."""

    name: str

    def __repr__(self) -> str:
        return f"<{self.name}>"


GOOD = Word("good")
"""What the verb would take in this place."""
MISSING = Word("missing")
STORAGE, LINK_TO_STORAGE, LINK_TO_SECRET, BAIT = (Word(n) for n in ("storage", "link", "secret link", "bait"))
"""The folder of the domain, a link to it, a link to what is nobody's business, a file outside."""


@dataclass(frozen=True)
class Long:
    """So many times the same text, so that reports stay short."""

    text: str
    count: int

    def __str__(self) -> str:
        return self.text * self.count


@dataclass(frozen=True)
class Nest:
    """Arrays in arrays, or objects in objects."""

    depth: int
    named: bool = False


@dataclass(frozen=True)
class Number:
    """A number as it is written: NaN, 1e999, a thousand digits."""

    text: str


@dataclass(frozen=True)
class Patch:
    """These fields of an object are twisted, the others are as they should be."""

    fields: dict[str, Any]


@dataclass(frozen=True)
class Pairs:
    """An object that may say the same name twice."""

    pairs: tuple[tuple[str, Any], ...]


TEXTS: tuple[Any, ...] = (
    *("", " ", "\0", "a\0b", "\n", "x\nEOF\nSEQ=7", "\r\n", "\t", "\x1b[2Jx", "\x7f", "\x85"),
    *("\u2028", "\ufffe", "\uffff", "\ud800", "x\udfffy", "\U0010ffff", "\U0001f525" * 60, "e\u0301" * 100),
    *("\u202egnp.exe", "\u0661\u0662"),
    *("%s%n%x%d", "{0.__class__}", "{where}", "$(touch /tmp/pwned)", "`id`", "; id", "| id", "&& id"),
    *("-rf", "--help", "*", "'", '"', "\\", "<", "&", "]]>", "<x/>", "&lol;", "&#0;", "<!--", "' OR 1=1"),
    *("a=b", "_SHA_CKSUM=0", "a,b:c"),
    *("..", ".", "/", "//", "/etc", "/etc/passwd", "/etc/../etc/", "/proc/self/mem", "/dev/zero", "/sys"),
    *("../" * 20 + "etc/passwd", "..\\..\\x", "file:///etc/passwd", "~root", "/nonexistent/x", "/root\n/x"),
    *("/etc\0/x"),
    *("host:/export", "[::1]:/x", "[", ":", "0", "-1", "1e3", "0x10", "1_000", "9" * 30, "nan", "inf", "-inf"),
    *("True", "null", "None", "undefined"),
    *(BLANK, BLANK.upper(), "A" * 8 + BLANK[8:], BLANK + "\n", BLANK[:-1], f"{{{BLANK}}}"),
    *("f" * 32, f"../{BLANK}", f"{BLANK}/.."),
    *(Long("A", 65), Long("A", 256), Long("/a", 3000), Long("A", 5000), Long(".a", 1000), Long("\u00e9", 300)),
    Long("a,", 20_000),
    *(STORAGE, LINK_TO_STORAGE, LINK_TO_SECRET, BAIT),
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 7, 251, 4096, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**31) - 1),
    *(-(2**63), -(2**64), 0.5, -0.0, 1.5e300, 5e-324, 1e20, 10**30),
    *(Number(n) for n in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "9" * 5000, "-" + "9" * 20)),
    *(Number(n) for n in ("01", "1e", "0x1", "+1")),
)  # fmt: skip
OTHERS: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [None], {"": ""}, {"a": None}, [1, "a", {}], {"__class__": "x", "self": 1}),
    *(Nest(60), Nest(60, True), Nest(100), Nest(5000, True)),
    *(Pairs((("a", 1), ("a", 2))), {"\0": 1}, {"\ud800": 1}, {"a b": 1}, {"type": "disk"}, {"xml": "<x/>"}),
    [BLANK] * 50,
)  # fmt: skip

texts = st.sampled_from(TEXTS) | st.text(max_size=12) | st.text(st.characters(codec=None), max_size=4)
numbers = st.sampled_from(NUMBERS) | st.integers() | st.floats()
others = st.sampled_from(OTHERS)
anything = st.one_of(texts, numbers, others)


def strip(hint: Any) -> tuple[Any, Ovirt | None]:
    """A declared type without what is said of it, and its form on the wire."""
    note = None
    while True:
        if get_origin(hint) is Annotated:
            hint, *said = get_args(hint)
            note = next((one for one in said if isinstance(one, Ovirt)), note)
        elif get_origin(hint) in (Union, types.UnionType):
            hint = next(one for one in get_args(hint) if one not in (UnsetType, type(None)))
        else:
            return hint, note


def list_fields(struct: type[Struct]) -> dict[str, Any]:
    """The declared types of a struct's fields."""
    hints = get_type_hints(struct, include_extras=True)
    return {one.name: hints[one.name] for one in structs.fields(struct)}


def fitting(hint: Any) -> st.SearchStrategy[Any]:
    """Hostile values of the right type."""
    base, _ = strip(hint)
    if isinstance(base, type) and issubclass(base, Struct):
        return patches(base)
    if get_origin(base) is list:
        return st.lists(twisted(get_args(base)[0]), max_size=4)
    if get_origin(base) is dict:
        return st.dictionaries(st.text(max_size=4) | st.sampled_from([BLANK, "a b", "\0", ""]), texts, max_size=3)
    if get_origin(base) is Literal:
        words = [word.swapcase() for word in get_args(base)]
        return st.sampled_from([*get_args(base), *words, *map(str, range(10))]) | texts
    if base is bool:
        return st.sampled_from([True, False, "true", "FALSE", "yes", 0, 1, 2, "", "1"])
    return numbers | numbers.map(str) if base in (int, float) else texts


DEVICES: tuple[dict[str, Any], ...] = (
    {"type": "disk", "path": "/x", "interface": "virtio"},
    {"type": "disk", "device": "cdrom"},
    {"type": "interface", "device": "bridge", "network": "br0"},
    {"type": "graphics", "device": "vnc"},
    {"type": "graphics", "device": "spice"},
    {"type": "console", "parameters": {"enable_socket": "true"}},
    {"type": "rng", "parameters": {"source": "random"}},
    *(
        {"type": kind}
        for kind in ("video", "sound", "controller", "balloon", "watchdog", "smartcard", "redir", "channel")
    ),
)
"""What a hostile device pretends to be."""


@st.composite
def patches(draw: st.DrawFn, struct: type[Struct]) -> Patch:
    """An object with up to three twisted fields."""
    hints = list_fields(struct)
    base = draw(st.sampled_from(DEVICES)) if struct is DeviceSpec else {}
    chosen = draw(st.sets(st.sampled_from(sorted(hints)), min_size=1, max_size=3))
    return Patch(base | {name: draw(twisted(hints[name])) for name in sorted(chosen)})


def twisted(hint: Any) -> st.SearchStrategy[Any]:
    """Hostile values for a place: mostly of the right type, which gets further."""
    return st.one_of(fitting(hint), fitting(hint), anything)


@dataclass(frozen=True)
class Attack:
    """A call with some parameters twisted, by our names; what is not named here is as it should be."""

    verb: Verb
    twisted: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(repr(self))

    def __repr__(self) -> str:
        return f"{self.verb.ovirt}({', '.join(f'{n}={v!r}' for n, v in {**self.twisted, **self.extra}.items())})"


VERBS = {verb.name: verb for verb in list_all_verbs()}


def _place(parameter: Parameter) -> st.SearchStrategy[Any]:
    return st.one_of(twisted(parameter.type), twisted(parameter.type), st.just(MISSING))


@st.composite
def attacks(draw: st.DrawFn, names: tuple[str, ...] = tuple(VERBS)) -> Attack:
    """One call of one of these verbs."""
    verb = VERBS[draw(st.sampled_from(names))]
    parameters = {parameter.name: parameter for parameter in verb.parameters}
    extra = draw(st.dictionaries(st.sampled_from(["self", "x", "vmID", "", "\0"]), anything, max_size=1))
    if not parameters:
        return Attack(verb, {}, extra)
    chosen = draw(st.sets(st.sampled_from(sorted(parameters)), min_size=1, max_size=min(3, len(parameters))))
    return Attack(verb, {name: draw(_place(parameters[name])) for name in sorted(chosen)}, extra)


def list_attacks() -> Iterator[Attack]:
    """Each value of the lists, in turn, in each parameter of each verb, and in each field of what is nested in it."""
    for verb in VERBS.values():
        for parameter in verb.parameters:
            for value in (*TEXTS, *NUMBERS, *OTHERS, MISSING):
                yield Attack(verb, {parameter.name: value})
            for value in _list_nested(parameter.type):
                yield Attack(verb, {parameter.name: value})


def _list_nested(hint: Any) -> Iterator[Any]:
    """Objects with one field twisted, lists with one such object."""
    base, _ = strip(hint)
    if get_origin(base) is list:
        yield from ([value] for value in _list_nested(get_args(base)[0]))
    elif isinstance(base, type) and issubclass(base, Struct):
        bases = DEVICES if base is DeviceSpec else ({},)
        for name, inner in list_fields(base).items():
            values = (*TEXTS, *NUMBERS, *OTHERS)
            yield from (Patch({**bases[at % len(bases)], name: value}) for at, value in enumerate(values))
            yield from (Patch({name: value}) for value in _list_nested(inner))
