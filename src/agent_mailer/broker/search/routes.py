"""The search's route."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response

from agent_mailer.broker.answers import answer, described, refusals
from agent_mailer.broker.callers import AsPerson, store_of
from agent_mailer.broker.search.behind import catch_up
from agent_mailer.broker.search.rows import Found, find
from agent_mailer.broker.search.words import wanted_by

router = APIRouter(prefix="/admin", tags=["search"])


class SearchPage(msgspec.Struct, frozen=True):
    """`total` counts up to 10,000; later pages are empty."""

    messages: list[Found]
    total: int
    page: int
    page_size: int
    total_pages: int
    query: str


@router.get(
    "/search",
    summary="The messages that hold these words",
    responses={200: described(SearchPage), **refusals(401, 422, 503)},
    response_class=Response,
)
async def search(
    request: Request,
    person: AsPerson,
    q: Annotated[str, Query(min_length=1, max_length=200, description="All of these words; `work*`: what begins so")],
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
    page_size: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """In subject or body, of any agent of this person, put away or not; the newest first."""
    wanted = wanted_by(q)
    skip = (page - 1) * page_size
    await catch_up(store_of(request))
    found, total = await store_of(request).read(lambda c: find(c, person.user_id, wanted, skip, page_size))
    return answer(SearchPage(found, total, page, page_size, max(1, -(-total // page_size)), q))
