"""How the surface is declared: verbs, rights, wire names; what a transport makes of them is left to `wire`."""

import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from msgspec import UnsetType

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
    """

    name: str
    _: KW_ONLY
    as_: type | None = None
    format: str | None = None
    declared: str | None = None
    words: Mapping[str, str] | None = None
    text_only: bool = False


ovirt = Ovirt
"""`elapsed_s: Annotated[int, ovirt("elapsedTime", as_=str)]` names the oVirt form of a field."""


@dataclass(frozen=True, slots=True)
class XmlRpc:
    """A verb's name, positional parameters and result member in the dialect of 2011 (facts §1.15).

    `parameters` are our parameter names in that dialect's order; `_` marks one that is accepted and ignored.
    """

    name: str
    parameters: tuple[str, ...] = ()
    member: str | None = None


def xmlrpc(name: str, parameters: str = "", *, member: str | None = None) -> XmlRpc:
    """`xmlrpc("getVmStats", "vm_id", member="statsList")`."""
    return XmlRpc(name, tuple(parameters.split()), member)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a verb: our name, its type, its oVirt form, its default (`REQUIRED` when it must be given)."""

    name: str
    type: Any
    ovirt: Ovirt
    default: Any
    doc: str = ""

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Verb:
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
    xmlrpc: XmlRpc | tuple[XmlRpc, ...] = (),
    *,
    needs: Right | None = None,
    fails: tuple[str, ...] = (),
    task: bool = False,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """Declare a method of a group's Protocol as a verb. Unless `needs` says else, GET needs VIEW, others OPERATE."""
    declared = {
        "ovirt": ovirt,
        "http": http,
        "xmlrpc": xmlrpc if isinstance(xmlrpc, tuple) else (xmlrpc,),
        "needs": needs or (Right.VIEW if http.startswith("GET ") else Right.OPERATE),
        "fails": fails,
        "is_task": task,
    }

    def mark(method: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        method.__declared__ = declared  # type: ignore[attr-defined]
        return method

    return mark


def group(name: str, *, invalid: str = "invalid-argument") -> Callable[[type[R]], type[R]]:
    """Name a Protocol as one group of verbs; `invalid` is the failure for malformed parameters."""

    def mark(protocol: type[R]) -> type[R]:
        protocol.__group__ = (name, invalid)  # type: ignore[attr-defined]
        return protocol

    return mark


def _parameter(parameter: inspect.Parameter, hint: Any) -> Parameter:
    note = Ovirt(parameter.name)
    doc = ""
    if get_origin(hint) is Annotated:
        for extra in get_args(hint)[1:]:
            if isinstance(extra, Ovirt):
                note = extra
            elif isinstance(extra, str):
                doc = extra
    return Parameter(parameter.name, hint, note, parameter.default, doc)


def list_verbs(protocol: type) -> tuple[Verb, ...]:
    """The verbs of one group in the order of their declaration."""
    name, invalid = protocol.__group__  # type: ignore[attr-defined]
    verbs = []
    for method_name, method in vars(protocol).items():
        declared: dict[str, Any] | None = getattr(method, "__declared__", None)
        if declared is None:
            continue
        hints = get_type_hints(method, include_extras=True)
        parameters = tuple(
            _parameter(p, hints[p.name]) for p in inspect.signature(method).parameters.values() if p.name != "self"
        )
        verbs.append(
            Verb(
                **declared,
                name=f"{name}.{method_name}",
                invalid=invalid,
                parameters=parameters,
                returns=hints["return"],
                doc=inspect.cleandoc(method.__doc__ or ""),
            )
        )
    return tuple(verbs)
