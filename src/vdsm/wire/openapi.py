"""OpenAPI 3.1 of the REST dialect and a page to read it, both from the catalogue; nothing is loaded from outside."""

import html
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from vdsm import __version__
from vdsm.api.declare import Parameter, Verb
from vdsm.api.events import EVENTS
from vdsm.core.errors import ERRORS

REFERENCE = "#/components/schemas/{name}"
_names = re.compile(r"\{(\w+)\}")

PROBLEM = {
    "type": "object",
    "required": ["code", "number", "message", "retry", "fields"],
    "properties": {
        "code": {"type": "string", "description": "stable name of the failure"},
        "number": {"type": "integer", "description": "its number in the oVirt dialects"},
        "message": {"type": "string"},
        "retry": {"type": "boolean", "description": "whether the same request may succeed later"},
        "fields": {"type": "object"},
    },
}
FAILURE = {
    "description": "A failure of the call itself: not found, not allowed, not ready, too large",
    "content": {"application/problem+json": {"schema": {"$ref": REFERENCE.format(name="Problem")}}},
}
_LAST_EVENT_ID = {"type": "string", "description": "go on after this event; `last_event_id` in the query does too"}
STREAM = {
    "operationId": "events",
    "summary": "Everything that happens, as server-sent events; an event `reset` says that some were missed.",
    "tags": ["events"],
    "x-right": "view",
    "parameters": [{"name": "Last-Event-ID", "in": "header", "required": False, "schema": _LAST_EVENT_ID}],
}

_STYLE = (
    "body{font:14px sans-serif;margin:2em}"
    "td,th{text-align:left;vertical-align:top;padding:.3em .8em;border-bottom:1px solid #ccc}"
)


def describe_api(verbs: Iterable[Verb]) -> dict[str, Any]:
    """The OpenAPI document."""
    verbs = tuple(verbs)
    hints = [
        hint for verb in verbs for hint in (verb.returns, *(p.type for p in verb.parameters)) if hint is not type(None)
    ]
    schemas, components = msgspec.json.schema_components((*hints, *EVENTS), ref_template=REFERENCE)
    ready = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for verb in verbs:
        returns = None if verb.returns is type(None) else next(ready)
        parameters = [(p, next(ready)) for p in verb.parameters]
        method, path = verb.http.split()
        paths.setdefault(path, {})[method.lower()] = _operation(verb, method, returns, parameters)
    paths["/events"] = {"get": _describe_stream(list(ready))}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Vdsm", "version": __version__, "description": "One virtualization node."},
        "servers": [{"url": "/api/v1"}],
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": {**components, "Problem": PROBLEM}, "responses": {"Failure": FAILURE}},
    }


def _describe_stream(events: list[dict[str, Any]]) -> dict[str, Any]:
    content = {"text/event-stream": {"schema": {"type": "string"}, "x-events": events}}
    return {**STREAM, "responses": {"200": {"description": "The stream", "content": content}}}


def _operation(
    verb: Verb, method: str, returns: dict[str, Any] | None, parameters: list[tuple[Parameter, dict[str, Any]]]
) -> dict[str, Any]:
    in_path = set(_names.findall(verb.http))
    operation: dict[str, Any] = {
        "operationId": verb.name,
        "summary": verb.doc,
        "tags": [verb.name.split(".")[0]],
        "x-right": verb.needs.name.lower(),
    }
    body: dict[str, Any] = {}
    listed: list[dict[str, Any]] = []
    for parameter, schema in parameters:
        name, described = parameter.name, _describe_parameter(parameter, schema)
        if name in in_path:
            listed.append({"name": name, "in": "path", "required": True, "schema": described})
        elif method in ("GET", "DELETE"):
            required = _is_needed(parameter, schema)
            listed.append({"name": name, "in": "query", "required": required, "schema": described})
        else:
            body[name] = described
    if listed:
        operation["parameters"] = listed
    if body:
        needed = [p.name for p, schema in parameters if p.name in body and _is_needed(p, schema)]
        schema = {"type": "object", "properties": body, "required": needed, "additionalProperties": False}
        operation["requestBody"] = {"required": bool(needed), "content": {"application/json": {"schema": schema}}}
    return {**operation, "responses": _responses(verb, returns)}


def _describe_parameter(parameter: Parameter, schema: dict[str, Any]) -> dict[str, Any]:
    described = dict(schema)
    if not parameter.required and parameter.default is not None:
        described["default"] = parameter.default
    if parameter.doc:
        described["description"] = parameter.doc
    return described


def _is_needed(parameter: Parameter, schema: dict[str, Any]) -> bool:
    """What may be null may be left out."""
    return parameter.required and {"type": "null"} not in schema.get("anyOf", ())


def _responses(verb: Verb, returns: dict[str, Any] | None) -> dict[str, Any]:
    if verb.is_task:
        task = {"type": "object", "properties": {"task": {"type": "string"}}, "required": ["task"]}
        responses: dict[str, Any] = {"202": _describe_answer("A task goes on", task)}
    elif returns is None:
        responses = {"204": {"description": "Done"}}
    else:
        status = "201" if verb.name.endswith(".create") else "200"
        responses = {status: _describe_answer("Done", returns)}
    by_status: dict[str, list[str]] = {}
    for code in dict.fromkeys((*verb.fails, verb.invalid)):
        error = ERRORS.get(code)
        if error is not None:
            by_status.setdefault(str(error.http), []).append(code)
    for status, codes in sorted(by_status.items()):
        responses[status] = {**FAILURE, "description": ", ".join(codes)}
    responses["default"] = {"$ref": "#/components/responses/Failure"}
    return responses


def _describe_answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def format_page(document: dict[str, Any]) -> str:
    """The document as one plain page: every operation, its parameters and its failures."""
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names = [p["name"] for p in operation.get("parameters", ())]
            content = operation.get("requestBody", {}).get("content", {})
            names += list(content.get("application/json", {}).get("schema", {}).get("properties", ()))
            failures = [r["description"] for s, r in operation["responses"].items() if s.isdigit() and s >= "300"]
            cells = (
                f"{method.upper()} {path}",
                operation["summary"],
                ", ".join(names),
                operation["x-right"],
                "; ".join(failures),
            )
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    head = "".join(f"<th>{name}</th>" for name in ("operation", "what it does", "parameters", "right", "failures"))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>REST under <code>/api/v1</code>; the whole contract is "
        "<a href=openapi.json>openapi.json</a>; events are streamed by <code>GET /api/v1/events</code>.</p>"
        f"<table><tr>{head}</tr>{''.join(rows)}</table></html>"
    )
