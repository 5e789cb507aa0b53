"""API keys, as a person makes and ends them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from agent_mailer.broker.answers import refusals
from agent_mailer.broker.callers import AsPerson, directory_of, store_of
from agent_mailer.broker.protocol import Label, Reference
from agent_mailer.broker.users import rows as accounts
from agent_mailer.broker.users.routes import Told
from agent_mailer.broker.users.rows import Key

router = APIRouter(prefix="/users/api-keys", tags=["keys"], responses=refusals(401))

MASK = "amk_****...****"


class KeyForm(BaseModel):
    name: Label = ""
    agent_id: Annotated[
        Reference | None, Field(description="The key acts for this agent only; without it for all of the user's.")
    ] = None


class KeyAnswer(BaseModel):
    id: str
    name: str
    key_prefix: str
    created_at: str
    last_used_at: str | None
    is_active: bool
    agent_id: str | None


class NewKeyAnswer(KeyAnswer):
    raw_key: Annotated[str, Field(description="The key itself, shown this once.")]


class KeyInUse(BaseModel):
    detail: str
    error: str
    message: str
    agents: list[dict[str, str]]


def _fields(key: Key) -> dict[str, object]:
    return {name: getattr(key, name) for name in ("id", "name", "created_at", "is_active", "agent_id")}


@router.post("", status_code=201, responses=refusals(404))
async def make(request: Request, person: AsPerson, form: KeyForm) -> NewKeyAnswer:
    raw_key = accounts.new_raw_key()
    key = await store_of(request).write(
        lambda c: accounts.add_key(c, person.user_id, form.name, raw_key, form.agent_id)
    )
    prefix = f"{raw_key[:8]}...{raw_key[-4:]}"
    return NewKeyAnswer.model_validate({**_fields(key), "key_prefix": prefix, "last_used_at": None, "raw_key": raw_key})


@router.get("")
async def listed(request: Request, person: AsPerson) -> list[KeyAnswer]:
    """Newest first."""
    directory = directory_of(request)
    keys = await store_of(request).read(lambda c: accounts.keys_of(c, person.user_id))
    return [
        KeyAnswer.model_validate(
            {**_fields(key), "key_prefix": MASK, "last_used_at": directory.last_used(key.id, key.last_used_at)}
        )
        for key in keys
    ]


@router.post("/{key_id}/deactivate", responses=refusals(404))
async def deactivate(request: Request, person: AsPerson, key_id: str) -> Told:
    await store_of(request).write(lambda c: accounts.set_key_active(c, person.user_id, key_id, active=False))
    directory_of(request).forget()
    return Told(detail="API key deactivated")


@router.post("/{key_id}/reactivate", responses=refusals(404, 409))
async def reactivate(request: Request, person: AsPerson, key_id: str) -> Told:
    await store_of(request).write(lambda c: accounts.set_key_active(c, person.user_id, key_id, active=True))
    directory_of(request).forget()
    return Told(detail="API key reactivated")


@router.delete(
    "/{key_id}", status_code=204, responses={**refusals(404), 409: {"model": KeyInUse, "description": "In use"}}
)
async def delete(request: Request, person: AsPerson, key_id: str) -> None:
    """Not the key that a living agent was made with."""
    await store_of(request).write(lambda c: accounts.delete_key(c, person.user_id, key_id))
    directory_of(request).forget()
