"""The application's last answer: for what no handler foresaw."""

import json
from typing import Any

import pytest
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from vdsm.wire.dispatch import Dispatcher
from vdsm.wire.web import make_app


async def test_what_no_handler_foresaw_is_a_problem_without_details_and_reaches_the_log() -> None:
    async def fail(_request: HttpRequest) -> Response:
        raise ZeroDivisionError("secret")

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    app = make_app(Dispatcher({}), {}, [Route("/fails", fail)])
    scope = {"type": "http", "method": "GET", "path": "/fails", "query_string": b"", "headers": []}
    with pytest.raises(ZeroDivisionError):  # the server behind it logs what it raises
        await app(scope, receive, send)
    start, body = sent
    assert (start["status"], dict(start["headers"])[b"content-type"]) == (500, b"application/problem+json")
    problem = json.loads(body["body"])
    assert (problem["code"], problem["message"]) == ("general-failure", "General Exception: ('ZeroDivisionError',)")
