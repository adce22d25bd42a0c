"""OpenAPI 3.1 of the REST dialect and a page to read it, both from the catalogue; nothing is loaded from outside."""

import html
import inspect
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from vdsm import __version__
from vdsm.api.declare import Verb
from vdsm.core.errors import ERRORS

REFERENCE = "#/components/schemas/{name}"
_names = re.compile(r"\{(\w+)\}")

PROBLEM = {
    "type": "object",
    "required": ["code", "number", "message", "retry", "fields"],
    "properties": {
        "code": {"type": "string"},
        "number": {"type": "integer"},
        "message": {"type": "string"},
        "retry": {"type": "boolean"},
        "fields": {"type": "object"},
    },
}


def describe_api(verbs: Iterable[Verb]) -> dict[str, Any]:
    """The OpenAPI document."""
    verbs = tuple(verbs)
    hints = [hint for verb in verbs for hint in (verb.returns, *(p.type for p in verb.parameters)) if hint is not type(None)]
    schemas, components = msgspec.json.schema_components(hints, ref_template=REFERENCE)
    ready = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for verb in verbs:
        returns = None if verb.returns is type(None) else next(ready)
        parameters = [(p, next(ready)) for p in verb.parameters]
        method, path = verb.http.split()
        paths.setdefault(path, {})[method.lower()] = _operation(verb, method, returns, parameters)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Vdsm", "version": __version__, "description": "One virtualization node."},
        "servers": [{"url": "/api/v1"}],
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": {**components, "Problem": PROBLEM}},
    }


def _operation(verb: Verb, method: str, returns: Any, parameters: list[tuple[Any, Any]]) -> dict[str, Any]:
    in_path = set(_names.findall(verb.http))
    operation: dict[str, Any] = {
        "operationId": verb.name,
        "summary": verb.doc,
        "tags": [verb.name.split(".")[0]],
        "x-right": verb.needs.name.lower(),
        "responses": _responses(verb, returns),
    }
    body: dict[str, Any] = {}
    required: list[str] = []
    listed: list[dict[str, Any]] = []
    for parameter, schema in parameters:
        described = {**schema, "description": parameter.doc} if parameter.doc else schema
        if parameter.name in in_path or method in ("GET", "DELETE"):
            place = "path" if parameter.name in in_path else "query"
            listed.append({"name": parameter.name, "in": place, "required": place == "path" or parameter.required, "schema": described})
            continue
        body[parameter.name] = described
        if parameter.default is inspect.Parameter.empty:
            required.append(parameter.name)
    if listed:
        operation["parameters"] = listed
    if body:
        schema = {"type": "object", "properties": body, "required": required, "additionalProperties": False}
        operation["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": schema}}}
    return operation


def _responses(verb: Verb, returns: Any) -> dict[str, Any]:
    if verb.is_task:
        task = {"type": "object", "properties": {"task": {"type": "string"}}, "required": ["task"]}
        responses = {"202": {"description": "A task goes on", "content": {"application/json": {"schema": task}}}}
    elif returns is None:
        responses = {"204": {"description": "Done"}}
    else:
        status = "201" if verb.name.endswith(".create") else "200"
        responses = {status: {"description": "Done", "content": {"application/json": {"schema": returns}}}}
    by_status: dict[str, list[str]] = {}
    for code in dict.fromkeys((*verb.fails, verb.invalid)):
        error = ERRORS.get(code)
        if error is not None:
            by_status.setdefault(str(error.http), []).append(code)
    for status, codes in sorted(by_status.items()):
        schema = {"$ref": REFERENCE.format(name="Problem")}
        responses[status] = {"description": ", ".join(codes), "content": {"application/problem+json": {"schema": schema}}}
    return responses


def format_page(document: dict[str, Any]) -> str:
    """The document as one plain page: every operation, its parameters and its failures."""
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names = [p["name"] for p in operation.get("parameters", ())]
            content = operation.get("requestBody", {}).get("content", {})
            names += list(content.get("application/json", {}).get("schema", {}).get("properties", ()))
            failures = [r["description"] for s, r in operation["responses"].items() if s >= "300"]
            cells = (f"{method.upper()} {path}", operation["summary"], ", ".join(names), operation["x-right"], "; ".join(failures))
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    head = "".join(f"<th>{name}</th>" for name in ("operation", "what it does", "parameters", "right", "failures"))
    style = "body{font:14px sans-serif;margin:2em}td,th{text-align:left;vertical-align:top;padding:.3em .8em;border-bottom:1px solid #ccc}"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{style}</style>"
        f"<h1>{title}</h1><p>REST under <code>/api/v1</code>; the whole contract is <a href=openapi.json>openapi.json</a>; "
        f"events are streamed by <code>GET /api/v1/events</code>.</p><table><tr>{head}</tr>{''.join(rows)}</table></html>"
    )
