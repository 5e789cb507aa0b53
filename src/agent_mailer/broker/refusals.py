"""Refusals as they go out: one shape for all of them, whatever the input was."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnection

from agent_mailer.broker.database import error_words
from agent_mailer.broker.protocol import Fault

log = logging.getLogger("agent_mailer.broker")
LONGEST_ECHO = 200
LATER = {"Retry-After": "1"}


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
        422: "A part of the request is missing or wrong",
        429: "Too many attempts",
        503: "The database cannot take it now",
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
    if isinstance(error, IntegrityError):
        # Each route looks before it writes; what is left is somebody else's write in between.
        return refuse(409, "What was stored meanwhile is in conflict with this request; try again")
    words = error_words(error)
    log.error("database: %s", words)
    return refuse(503, words, LATER)


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
