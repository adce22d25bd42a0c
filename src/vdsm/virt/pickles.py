"""Reads and writes the pickles that hosts leave for each other on shared storage (facts §2.1): plain values alone.

Whoever can write to that storage could have Python's own unpickler run anything, or take all memory. This one knows
None, booleans, numbers, text, bytes, lists, tuples and dictionaries, and nothing that is longer than what was read.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping

MAXIMUM_BYTES = 1 << 20
BLOCK_BYTES = 4096
_PROTOCOL = 2
_LITERALS = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING")
    + ("SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES")
    + ("BINBYTES8",)
)
_CONSTANTS: Mapping[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_FIXED_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ENCODERS = ("_codecs encode", "__builtin__ bytes", "builtins bytes")
"""How protocol 2, which has no bytes, tells them: by text that is encoded when it is read."""


class PickleInvalid(ValueError):
    """It is no pickle of plain values; the text says why."""


class _Sign:
    """What stands among values and is none."""


_MARK, _ENCODER = _Sign(), _Sign()
"""Where the items of a container begin; what makes bytes of text."""


def dump(values: Mapping[str, str | float | bool]) -> bytes:
    """A pickle that hosts of all ages read, in whole blocks."""
    data = pickle.dumps(dict(values), protocol=_PROTOCOL)
    return data.ljust(-(-len(data) // BLOCK_BYTES) * BLOCK_BYTES, b"\0")


def load(data: bytes) -> object:
    """The value of a pickle, whatever follows it. Raises PickleInvalid."""
    if len(data) > MAXIMUM_BYTES:
        raise PickleInvalid(f"{len(data)} bytes are too many")
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.pop()
            machine.do(opcode.name, argument)
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise PickleInvalid(f"not a pickle of plain values: {error}") from error
    raise PickleInvalid("it has no end")


class _Machine:
    """The stack that opcodes work on. Values that are told twice are one value, as in any pickle."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self._memo: dict[int, object] = {}
        self._simple: dict[str, Callable[[], object]] = {
            "MARK": lambda: self.stack.append(_MARK),
            "EMPTY_LIST": lambda: self.stack.append([]),
            "EMPTY_DICT": lambda: self.stack.append({}),
            "LIST": lambda: self.stack.append(self._pop_items()),
            "TUPLE": lambda: self.stack.append(tuple(self._pop_items())),
            "DICT": lambda: self.stack.append(_pair(self._pop_items())),
            "APPEND": lambda: self._extend([self.pop()]),
            "APPENDS": lambda: self._extend(self._pop_items()),
            "SETITEM": lambda: self._update(self._pop(2)),
            "SETITEMS": lambda: self._update(self._pop_items()),
            "MEMOIZE": lambda: self._memo.update({len(self._memo): self.stack[-1]}),
            "REDUCE": self._encode,
        }

    def do(self, name: str, argument: object) -> None:
        """Act on one opcode. Raises ValueError for one that makes anything but plain values."""
        if name in ("PROTO", "FRAME"):
            return
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _FIXED_TUPLES:
            self.stack.append(tuple(self._pop(_FIXED_TUPLES[name])))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int):
            self._memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET") and isinstance(argument, int):
            self.stack.append(self._memo[argument])
        elif name == "GLOBAL" and argument in _ENCODERS:
            self.stack.append(_ENCODER)
        elif name in self._simple:
            self._simple[name]()
        else:
            raise ValueError(f"{name} makes what is not plain")

    def pop(self) -> object:
        """The value on top."""
        return self._pop(1)[0]

    def _pop(self, count: int) -> list[object]:
        if count > len(self.stack):
            raise ValueError("too little is there")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        if any(isinstance(one, _Sign) for one in taken):
            raise ValueError("a sign among the values")
        return taken

    def _pop_items(self) -> list[object]:
        items = []
        while (one := self.stack.pop()) is not _MARK:
            items.append(one)
        if any(isinstance(one, _Sign) for one in items):
            raise ValueError("a sign among the values")
        return items[::-1]

    def _extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError("items of what is no list")
        target.extend(items)

    def _update(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ValueError("items of what is no dictionary")
        target.update(_pair(items))

    def _encode(self) -> None:
        [arguments] = self._pop(1)
        encoder = self.stack.pop()
        texts = arguments if isinstance(arguments, tuple) else None
        if encoder is not _ENCODER or texts is None or len(texts) > 2 or not all(isinstance(one, str) for one in texts):
            raise ValueError("REDUCE makes what is not plain")
        self.stack.append(str(texts[0]).encode("latin-1") if texts else b"")


def _pair(items: list[object]) -> dict[object, object]:
    keys, values = items[::2], items[1::2]
    if len(keys) != len(values) or not all(isinstance(key, str | bytes | int | float | None) for key in keys):
        raise ValueError("keys and values do not match")
    return dict(zip(keys, values, strict=True))
