"""Answers as they go out: values as JSON, refusals in one shape whatever the input was, and both for OpenAPI."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from agent_mailer.broker.engines import Trouble, error_words, trouble_of
from agent_mailer.broker.protocol import Fault

log = logging.getLogger("agent_mailer.broker")
LONGEST_ECHO = 200
encode = msgspec.json.Encoder().encode
LATER = {"Retry-After": "1"}


def answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`value` as JSON; past FastAPI's own way, which would look at every field twice."""
    return Response(encode(value), status, headers, "application/json")


def described(*kinds: Any, description: str = "OK") -> dict[str, Any]:  # noqa: ANN401 - type expressions
    """An answer, one of `kinds`, for OpenAPI."""
    schemas, parts = msgspec.json.schema_components(kinds, ref_template="{name}")
    whole = [_whole(schema, parts) for schema in schemas]
    schema = whole[0] if len(whole) == 1 else {"anyOf": whole}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def body_of(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a type expression
    """The body of a request for OpenAPI, because it is read past FastAPI."""
    return {"requestBody": {"required": True, "content": described(kind)["content"]}}


def header(name: str, description: str, pattern: str, *, required: bool = False) -> dict[str, Any]:
    """A request's header for OpenAPI, because it is read past FastAPI."""
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "description": description, "required": required, "schema": schema}


def _whole(schema: object, parts: dict[str, Any]) -> object:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _whole(parts[schema["$ref"]], parts)
        return {key: _whole(value, parts) for key, value in schema.items()}
    return [_whole(item, parts) for item in schema] if isinstance(schema, list) else schema


class Issue(BaseModel):
    """What is wrong with one part of a request."""

    model_config = ConfigDict(extra="allow")
    type: str
    loc: list[str | int]
    msg: str


class Problem(BaseModel):
    """Why a request was refused."""

    model_config = ConfigDict(extra="allow")
    detail: str | list[Issue]


Responses = dict[int | str, dict[str, Any]]


def refusals(*statuses: int) -> Responses:
    """The statuses of a route, for its `responses`."""
    words = {
        400: "Not as the protocol asks",
        401: "Credentials missing or refused",
        403: "Not allowed with these credentials",
        404: "Unknown, or of another user",
        409: "In conflict with what is stored",
        413: "Too large",
        415: "No JSON",
        421: "For another host",
        422: "A part of the request is missing or wrong",
        429: "Too many attempts, or too much at once",
        503: "The database cannot take it now, or the broker is being stopped",
    }
    return {status: {"model": Problem, "description": words[status]} for status in statuses}


def refuse(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)


def give_handlers(app: FastAPI) -> None:
    """Give every refusal its handler."""
    app.add_exception_handler(Fault, _fault)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(NoConnection, _no_connection)


async def _fault(_request: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, Fault)
    return JSONResponse({"detail": fault.detail, **fault.extra}, fault.status, fault.headers)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": issues(error.errors())}, 422)


async def _database(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DBAPIError)
    trouble = trouble_of(error)
    if trouble is Trouble.CONFLICT:
        # Each route looks before it writes; what is left is somebody else's write in between.
        return refuse(409, "What was stored meanwhile is in conflict with this request; try again")
    words = error_words(error)
    log.error("database: %s", words)
    # Where the server is, and who one is there, is nobody's business.
    return refuse(503, "the database cannot be reached" if trouble is Trouble.AWAY else words, LATER)


async def _no_connection(_request: Request, _error: Exception) -> JSONResponse:
    return refuse(503, "the database is busy", LATER)


def issues(errors: Sequence[Any]) -> list[dict[str, object]]:
    """Pydantic's errors as JSON that can always be written and never repeats a password or a long text."""
    return [
        {
            "type": str(error["type"]),
            "loc": [part if isinstance(part, int) else _clean(str(part)) for part in error["loc"]],
            "msg": _clean(str(error["msg"])),
            "input": _echo(error.get("input"), error["loc"]),
        }
        for error in errors[:100]
    ]


def _echo(value: object, place: Sequence[object]) -> object:
    if any("password" in str(part) for part in place):
        return None
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if -1e15 < value < 1e15 else None
    return None


def _clean(text: str) -> str:
    return text[:LONGEST_ECHO].encode("utf-8", "replace").decode("utf-8")
