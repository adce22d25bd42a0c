"""The one error family: a stable code, the facts' number, fields and one text; mapping to a wire is left to `wire`."""

import re
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

    `number` is what the oVirt dialects carry (facts: rpc §10, storage §12), `http` the REST status, `retry` whether the
    same call may succeed later. `text` is a template over the fields; after a colon at its end, all of them follow as
    oVirt tells them: `Volume does not exist: ('…',)`. A long one stands in the body. `code` is the stable name: unless
    given, the class's in lower case, with dashes. A class without a number only names fields that a family shares.
    """

    code: ClassVar[str] = "unexpected"
    number: ClassVar[int] = 100
    http: ClassVar[int] = 500
    retry: ClassVar[bool] = False
    text: ClassVar[str] = "Unexpected failure"

    def __init_subclass__(
        cls, *, number: int | None = None, http: int = 500, retry: bool = False, code: str = "", text: str = ""
    ) -> None:
        super().__init_subclass__()
        dataclass(eq=False, repr=False)(cls)
        if number is None:
            return
        cls.code = code or re.sub("(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()
        cls.number, cls.http, cls.retry, cls.text = number, http, retry, text or cls.text
        if cls.text.endswith(":"):
            values = [f"{{{field.name}!r}}" for field in fields(cls)]  # type: ignore[arg-type]
            cls.text += f" ({', '.join(values)}{',' * (len(values) == 1)})"
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


class Failure(NodeError):
    """What only a reason tells of."""

    reason: str


class GeneralFailure(Failure, number=100, text="General Exception: {reason}"):
    """Something went wrong that has no name of its own."""


class InvalidArgument(NodeError, number=91, http=400, text="{where}: {reason}"):
    """A parameter of a verb is missing, of the wrong type or out of bounds; nothing was changed."""

    where: str
    reason: str


class NotReady(NodeError, number=99, http=503, retry=True, text="Recovering from crash or Initializing: {what}"):
    """The daemon still recovers its VMs, or one of its parts could not be started."""

    what: str = "virtual machines"


class ResourceExhausted(NodeError, number=1100, http=503, retry=True, text="Not enough resources: {what}"):
    """A queue or a pool is full; the request was not started."""

    what: str


class NotAllowed(NodeError, number=16, http=403, text="{verb} needs the right {right}"):
    """The caller does not hold the right that the verb needs."""

    verb: str
    right: str
