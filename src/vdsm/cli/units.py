"""Figures and texts as people read them. Which figure has which unit is told by a field's name."""

import math
from datetime import datetime

_SIZES = ("KiB", "MiB", "GiB", "TiB", "PiB")
_EPOCH_S = 1_000_000_000
"""More seconds than this are a point in time, not a duration."""

SUFFIXES = ("bytes_per_s", "per_s", "bytes", "kib", "mib", "percent", "mbps", "mhz", "ms", "us", "ns", "s", "hz")
"""Endings of our names that are units, the longer ones before those that they end with."""


def split_unit(name: str) -> tuple[str, str]:
    """`memory_free_mib` → (`memory_free`, `mib`); an empty unit when the name has none."""
    for unit in SUFFIXES:
        if name.endswith(f"_{unit}"):
            return name.removesuffix(f"_{unit}"), unit
    return name, ""


def format_label(name: str) -> str:
    """A field's name as a heading: without its unit, in words."""
    return split_unit(name)[0].replace("_", " ")


def format_figure(name: str, value: int | float | str) -> str:
    """A number (or its text) with the unit that the field's name ends with; what is no number stays as it is."""
    unit = split_unit(name)[1]
    number = _number(value)
    if number is None or not unit:
        return str(value)
    if unit in ("bytes", "kib", "mib", "bytes_per_s"):
        size = format_size(number * {"kib": 1024, "mib": 1024**2}.get(unit, 1))
        return f"{size}/s" if unit == "bytes_per_s" else size
    if unit == "s":
        return _format_time(number) if _EPOCH_S < number < 100 * _EPOCH_S else format_duration(number)
    words = {"percent": "%", "mbps": "Mbit/s", "mhz": "MHz", "hz": "Hz", "per_s": "/s", "us": "µs"}
    return f"{_short(number)} {words.get(unit, unit)}"


def format_size(size_bytes: int | float) -> str:
    """Bytes in the largest power of 1024 that leaves a number of at least one: `1.5 GiB`."""
    if abs(size_bytes) < 1024:
        return f"{_short(size_bytes)} B"
    size = float(size_bytes)
    for unit in _SIZES:
        size /= 1024
        if abs(size) < 1023.95 or unit == _SIZES[-1]:
            return f"{_short(size)} {unit}"
    raise AssertionError("unreachable: the last unit takes every size")


def format_duration(seconds: int | float) -> str:
    """Seconds in the two largest units that count: `2 d 4 h`, `3 min 20 s`, `0.25 s`."""
    if abs(seconds) < 60:
        return f"{_short(seconds, 3)} s"
    left = round(abs(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
    return ("-" if seconds < 0 else "") + " ".join(part for part in parts[:2] if part)


def format_printable(text: str) -> str:
    """Text without what a terminal would obey: control characters come out escaped, line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _format_time(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s).astimezone().isoformat(" ", "seconds")


def _short(number: int | float, digits: int = 1) -> str:
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _number(value: int | float | str) -> int | float | None:
    try:
        number = int(value) if isinstance(value, str) and value.isdecimal() else float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
