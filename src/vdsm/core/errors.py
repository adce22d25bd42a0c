"""The one error family: a stable code, the facts' number, fields and one text; mapping to a wire is left to `wire`."""

from dataclasses import dataclass, fields
from typing import ClassVar, dataclass_transform

LONGEST_TEXT = 2000
"""Characters of an error's text: it repeats what callers sent, and is told, logged and kept."""

ERRORS: dict[str, type["NodeError"]] = {}
"""Every declared error by its stable code, filled as the classes are declared."""


def shorten(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text, or its beginning and how much is left out."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest} characters more)"


@dataclass_transform(eq_default=False)
class NodeError(Exception):
    """A failure that a caller can act on. Subclasses declare the data; causes are chained with `from`.

    `code` is the stable name, `number` the number that the oVirt dialects carry (facts: rpc §10, storage §12), `http`
    the REST status, `retry` whether the same call may succeed later, `text` a template over the fields.
    """

    code: ClassVar[str] = "unexpected"
    number: ClassVar[int] = 100
    http: ClassVar[int] = 500
    retry: ClassVar[bool] = False
    text: ClassVar[str] = "Unexpected failure"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(eq=False, repr=False)(cls)
        known = ERRORS.setdefault(cls.code, cls)
        if known is not cls and known.__qualname__ != cls.__qualname__:
            raise TypeError(f"error code {cls.code!r} is declared twice: {known.__qualname__} and {cls.__qualname__}")

    def __str__(self) -> str:
        return shorten(self.text.format(**self.data()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.data()!r})"

    def data(self) -> dict[str, object]:
        """The fields by name, for logs and for the wire."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


class GeneralFailure(NodeError):
    """Something went wrong that has no name of its own."""

    code, number, http, text = "general-failure", 100, 500, "General Exception: {reason}"
    reason: str


class InvalidArgument(NodeError):
    """A parameter of a verb is missing, of the wrong type or out of bounds; nothing was changed."""

    code, number, http, text = "invalid-argument", 91, 400, "{where}: {reason}"
    where: str
    reason: str


class NotReady(NodeError):
    """The daemon still recovers its VMs, or one of its parts could not be started."""

    code, number, http, retry, text = "not-ready", 99, 503, True, "Recovering from crash or Initializing: {what}"
    what: str = "virtual machines"


class ResourceExhausted(NodeError):
    """A queue or a pool is full; the request was not started."""

    code, number, http, retry, text = "resource-exhausted", 1100, 503, True, "Not enough resources: {what}"
    what: str


class NotAllowed(NodeError):
    """The caller does not hold the right that the verb needs."""

    code, number, http, text = "not-allowed", 16, 403, "{verb} needs the right {right}"
    verb: str
    right: str
