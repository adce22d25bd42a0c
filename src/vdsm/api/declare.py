"""How the surface is declared: verbs, rights, wire names; what a transport makes of them is left to `wire`."""

import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Struct, UnsetType

from vdsm.core.context import Right

P = ParamSpec("P")
R = TypeVar("R")

# Figures of results that are absent while they are not known.
Text = str | UnsetType
Number = int | UnsetType
Figure = float | UnsetType
Flag = bool | UnsetType


@dataclass(frozen=True, slots=True)
class Ovirt:
    """A field's or a parameter's name and form in the oVirt dialects.

    `as_=str` says that a number or a boolean travels as text there, `format` how a number is printed ("%.2f"),
    `declared` the primitive that the published schema names where it differs from what travels. `words` translates what
    old callers write (upper-cased) into our value: `{"4": "COW"}`. With `text_only`, a number is refused for text.
    `short` names the member that text alone stands for, where an object is due; `listed` says that such an object is
    published as a list of one and told as it is.
    """

    name: str
    _: KW_ONLY
    as_: type | None = None
    format: str | None = None
    declared: str | None = None
    words: Mapping[str, str] | None = None
    text_only: bool = False
    short: str | None = None
    listed: bool = False


ovirt = Ovirt
"""`elapsed_s: Annotated[int, ovirt("elapsedTime", as_=str)]` names the oVirt form of a field."""


class XmlRpc(Struct, frozen=True):
    """A verb's name, positional parameters and result member in the dialect of 2011 (facts §1.15).

    `parameters` are our parameter names in that dialect's order; `_` marks one that is accepted and ignored.
    """

    name: str
    parameters: tuple[str, ...] = ()
    member: str | None = None


def xmlrpc(name: str, parameters: str = "", *, member: str | None = None) -> Callable[[R], R]:
    """Name a verb in the dialect of 2011: `@xmlrpc("getVmStats", "vm_id", member="statsList")` below its `@verb`."""
    call = XmlRpc(name, tuple(parameters.split()), member)

    def mark(method: R) -> R:
        method.__xmlrpc__ = (call, *getattr(method, "__xmlrpc__", ()))  # type: ignore[attr-defined]
        return method

    return mark


class Parameter(Struct, frozen=True):
    """One parameter of a verb: our name, its type, its oVirt form, its default (`REQUIRED` when it must be given)."""

    name: str
    type: Any
    ovirt: Ovirt
    default: Any
    doc: str = ""

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


class Verb(Struct, frozen=True):
    """One verb of the surface, with all that a transport needs to bind it."""

    name: str
    """`<group>.<method>`, such as `vm.get_stats`."""
    ovirt: str
    """The JSON-RPC name, such as `VM.getStats`."""
    xmlrpc: tuple[XmlRpc, ...]
    http: str
    """Method and path below `/api/v1`; names in braces are parameters."""
    needs: Right
    fails: tuple[str, ...]
    """Stable codes of the failures that callers should expect (see `core.errors.ERRORS`)."""
    invalid: str
    """The code of the failure for a parameter of the wrong type."""
    is_task: bool
    """Whether the result is the id of a task that goes on."""
    parameters: tuple[Parameter, ...]
    returns: Any
    doc: str


def verb(
    ovirt: str,
    http: str,
    *,
    needs: Right | None = None,
    fails: tuple[str, ...] = (),
    task: bool = False,
    invalid: str = "",
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """Declare a method of a group's Protocol as a verb; `http` is its HTTP method, and its path below the group's.

    `invalid` is the code of the failure for malformed parameters where it is not the group's.
    """

    def mark(method: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        method.__declared__ = (ovirt, http, needs, fails, task, invalid)  # type: ignore[attr-defined]
        return method

    return mark


def group(
    name: str, path: str = "", *, invalid: str = "invalid-argument", needs: Right = Right.OPERATE
) -> Callable[[type[R]], type[R]]:
    """Name a Protocol as one group of verbs, whose REST paths begin with `path`; malformed parameters are `invalid`.

    Unless a verb says else, GET needs VIEW, other methods `needs`.
    """

    def mark(protocol: type[R]) -> type[R]:
        protocol.__group__ = (name, path, invalid, needs)  # type: ignore[attr-defined]
        return protocol

    return mark


def _parameter(parameter: inspect.Parameter, hint: Any) -> Parameter:
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    form = next((note for note in notes if isinstance(note, Ovirt)), Ovirt(parameter.name))
    doc = next((note for note in notes if isinstance(note, str)), "")
    return Parameter(parameter.name, hint, form, parameter.default, doc)


def list_verbs(protocol: type) -> tuple[Verb, ...]:
    """The verbs of one group in the order of their declaration."""
    return tuple(_verb(protocol, method) for method in vars(protocol).values() if hasattr(method, "__declared__"))


def _verb(protocol: Any, method: Any) -> Verb:
    group, path, usual, right = protocol.__group__
    ovirt, http, needs, fails, is_task, invalid = method.__declared__
    http_method, _, below = http.partition(" ")
    hints = get_type_hints(method, include_extras=True)
    given = [parameter for parameter in inspect.signature(method).parameters.values() if parameter.name != "self"]
    return Verb(
        name=f"{group}.{method.__name__}",
        ovirt=ovirt,
        xmlrpc=getattr(method, "__xmlrpc__", ()),
        http=f"{http_method} {path}{below}",
        needs=needs or (Right.VIEW if http_method == "GET" else right),
        fails=fails,
        invalid=invalid or usual,
        is_task=is_task,
        parameters=tuple(_parameter(parameter, hints[parameter.name]) for parameter in given),
        returns=hints["return"],
        doc=inspect.cleandoc(method.__doc__ or ""),
    )
