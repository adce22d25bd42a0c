"""The one door for XML: elements made of untrusted values, documents parsed from outside; meaning is left to others."""

import re
from xml.etree.ElementTree import Element, ParseError, SubElement, tostring

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from vdsm.core.errors import InvalidArgument

MAXIMUM_CHARACTERS = 1 << 20
MAXIMUM_TAGS = 20_000
"""A VM of a hundred disks has some 2,000."""
MAXIMUM_DEPTH = 64

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def check_text(where: str, text: str) -> str:
    """Return text, or raise InvalidArgument when it holds a character that XML cannot carry."""
    if _FORBIDDEN.search(text) is not None:
        raise InvalidArgument(where, "control characters are not allowed")
    return text


def element(tag: str, /, *children: Element, text: str | None = None, **attributes: object) -> Element:
    """One element; attributes of None are left out, True and False become yes and no.

    Raises InvalidArgument for text that XML cannot carry, so that nothing hostile gets past this door.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name, check_text(f"{tag}.{name}", _format(value)))
    if text is not None:
        made.text = check_text(tag, text)
    made.extend(children)
    return made


def _format(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def parse_int(text: str) -> int:
    """A whole number that fits 64 bits; raises ValueError with a short reason."""
    if len(text) > 100:
        raise ValueError(f"a number of {len(text)} characters")
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{text.strip()} is out of range")
    return number


def set_child(parent: Element, tag: str) -> Element:
    """The child of that tag, made when it is missing."""
    found = parent.find(tag)
    return SubElement(parent, tag) if found is None else found


def format_xml(root: Element) -> str:
    """The document as text."""
    return tostring(root, encoding="unicode")


def parse_xml(text: str) -> Element:
    """Parse a document from outside; raises ValueError with the reason, also for entities and external references.

    What is larger, wider or deeper than any domain is refused: it would cost the loop seconds, and recursion its stack.
    """
    if len(text) > MAXIMUM_CHARACTERS or text.count("<") > MAXIMUM_TAGS:
        raise ValueError(f"not acceptable XML: more than {MAXIMUM_CHARACTERS} characters or {MAXIMUM_TAGS} tags")
    root = _parse(text)
    if _nests_deeper(root, MAXIMUM_DEPTH):
        raise ValueError(f"not acceptable XML: nested deeper than {MAXIMUM_DEPTH}")
    return root


def _nests_deeper(root: Element, limit: int) -> bool:
    level = [root]
    for _ in range(limit):
        level = [child for node in level for child in node]
    return bool(level)


def _parse(text: str) -> Element:
    try:
        return fromstring(text)
    except (ParseError, DefusedXmlException, ValueError, RecursionError) as error:
        raise ValueError(f"not acceptable XML: {error or type(error).__name__}") from error
