"""What a request to send may hold, read in one pass over its bytes."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from agent_mailer.broker.answers import header
from agent_mailer.broker.protocol import NO_NUL, ONE_LINE

LONGEST_SUBJECT = 998
MOST_RECIPIENTS = 100
MOST_ATTACHMENTS = 50
MOST_ATTACHMENT_BYTES = 65_536
DEEPEST_ATTACHMENT = 16
IS_KEY = re.compile(r"[\x20-\x7e]{1,200}")

Text = Annotated[str, Field(pattern=NO_NUL)]
Address = Annotated[str, Field(pattern=NO_NUL)]
Word = Annotated[str, Field(max_length=100, pattern=ONE_LINE)]


def _storable(value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - any JSON
    if depth > DEEPEST_ATTACHMENT:
        raise ValueError("attachments are nested too deeply")
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("attachments hold a NUL")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("attachments hold a number that JSON has not")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError("attachments hold a number beyond 64 bits")
    elif isinstance(value, list):
        for item in value:
            _storable(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _storable(key, depth + 1)
            _storable(item, depth + 1)
    return value


Attachment = Annotated[str | dict[str, Any], AfterValidator(_storable)]


Automatic = Literal["no", "notice", "auto-reply"]
Priority = Literal["urgent", "normal", "low"]
Kind = Literal["brainstorm", "review_request", "review_response", "question", "answer", "decision", "status", "todo"]


class OperatorForm(BaseModel):
    """A message that a person sends as the operator."""

    to_agent: Address | Annotated[list[Address], Field(max_length=MOST_RECIPIENTS)]
    action: Literal["send", "reply", "forward"] = "send"
    subject: Annotated[str, Field(max_length=LONGEST_SUBJECT, pattern=NO_NUL)] = ""
    body: Text = ""
    attachments: Annotated[list[Attachment], Field(max_length=MOST_ATTACHMENTS)] = []
    parent_id: Text | None = None
    forward_scope: Literal["message", "thread"] | None = None
    thread_id: Annotated[str, Field(min_length=1, max_length=128, pattern=ONE_LINE)] | None = None
    hops: Annotated[int, Field(ge=0, le=1000)] = 0
    automatic: Automatic = "no"
    priority: Priority = "normal"
    kind: Kind | None = None
    labels: Annotated[list[Word], Field(max_length=20)] = []
    one_of: Annotated[str, Field(min_length=1, max_length=64, pattern=ONE_LINE)] | None = None
    visited: Annotated[list[Annotated[str, Field(max_length=1000, pattern=NO_NUL)]], Field(max_length=64)] = []


class SendForm(OperatorForm):
    """A message that an agent sends."""

    agent_id: Text
    from_agent: Text


Form = TypeVar("Form", bound=OperatorForm)


def is_json(request: Request) -> bool:
    """By what it says itself."""
    kind, _, _ = request.headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def read_form(request: Request, form: type[Form]) -> Form:
    """The request's body. Raises RequestValidationError."""
    if not is_json(request):
        # As FastAPI answers: a page of another site cannot send this type without being asked first.
        raise _invalid("model_attributes_type", "The request is no JSON: its Content-Type says otherwise")
    raw = await request.body()
    if not raw:
        raise _invalid("missing", "Field required")
    try:
        return form.model_validate_json(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise RequestValidationError([{**issue, "loc": ("body", *issue["loc"])} for issue in found]) from None


KEY_HEADER = header(
    "Idempotency-Key",
    "The same key with the same request is answered with what was stored the first time.",
    r"^[\x20-\x7e]{1,200}$",
)


def idempotency_key(request: Request) -> str | None:
    """Raises RequestValidationError."""
    key = request.headers.get("idempotency-key")
    if key is None or IS_KEY.fullmatch(key):
        return key
    message = "Idempotency-Key is 1 to 200 printable ASCII characters"
    raise RequestValidationError(
        [{"type": "value_error", "loc": ("header", "Idempotency-Key"), "msg": message, "input": key}]
    )


def _invalid(kind: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("body",), "msg": message, "input": None}])


def documented(form: type[BaseModel], *headers: dict[str, Any]) -> dict[str, Any]:
    """The request for OpenAPI, because it is read past FastAPI. `headers`: what it may have beside the key."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": form.model_json_schema()}},
        },
        "parameters": [
            KEY_HEADER,
            *headers,
        ],
    }
