"""Callbacks are posted: to the address that was found to be allowed, and to no other that the name may have by then.

Redirects are not followed, and nothing that is answered is read. At least once: whoever is called back knows one that
comes again by its `Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from datetime import timedelta
from functools import partial

import httpx
from sqlalchemy.exc import SQLAlchemyError

from agent_mailer.broker.database import Store
from agent_mailer.broker.hooks.callbacks import Post, ended, forget, gather, has_news
from agent_mailer.broker.protocol import CLOCK
from agent_mailer.outside.callbacks import SECONDS, Target, reachable, target_of
from agent_mailer.outside.calls import KEY_HEADER
from agent_mailer.outside.items import KEPT_DAYS
from agent_mailer.outside.signature import HEADER, sign

log = logging.getLogger("agent_mailer.broker")
EVERY = 2.0
"""Seconds between two looks."""
FORGET_EVERY = 1800
"""Looks between two times that what is over is forgotten."""


async def post_on(store: Store, secret: str) -> None:
    """For ever. `secret`: the broker's."""
    looks = 0
    verify = await asyncio.to_thread(ssl.create_default_context)
    while True:
        try:
            await post_due(store, secret, verify)
            if looks % FORGET_EVERY == 0:
                before = (CLOCK.now() - timedelta(days=KEPT_DAYS)).isoformat(timespec="microseconds")
                await store.write(partial(forget, before=before))
        except SQLAlchemyError as error:
            log.warning("callbacks could not be looked at: %s", str(error).splitlines()[0])
        looks += 1
        await asyncio.sleep(EVERY)


async def post_due(store: Store, secret: str, verify: ssl.SSLContext) -> None:
    """What is due, once. Raises SQLAlchemyError."""
    if not await store.read(has_news):
        return
    posts = await store.write(partial(gather, key=secret))
    for post, why in zip(posts, await asyncio.gather(*(_post(one, verify) for one in posts)), strict=True):
        await store.write(partial(ended, post=post, why=why))


async def _post(post: Post, verify: ssl.SSLContext) -> str:
    """Why it was not taken; empty where it was."""
    try:
        target = target_of(post.url, post.hosts)
        async with asyncio.timeout(SECONDS):
            address = reachable(target, await _addresses(target))
            return await _send(post, target, address, verify)
    except (ValueError, httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
        # Nothing that one URL does ends the work for all; BadTarget is a ValueError, and so is what no look-up takes.
        return str(error) or type(error).__name__


async def _addresses(target: Target) -> list[str]:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


async def _send(post: Post, target: Target, address: str, verify: ssl.SSLContext) -> str:
    """Raises httpx.HTTPError."""
    url = httpx.URL(target.url)
    headers = {
        "Host": url.netloc.decode("ascii"),
        "Content-Type": "application/json",
        KEY_HEADER: post.message_id,
        HEADER: sign(post.secret, post.body, int(CLOCK.now().timestamp())),
    }
    # By number, so that no second look-up finds another; the certificate is the name's all the same.
    named = {"sni_hostname": target.host}
    async with (
        httpx.AsyncClient(verify=verify, trust_env=False, follow_redirects=False, timeout=SECONDS) as client,
        client.stream(
            "POST", url.copy_with(host=address), content=post.body, headers=headers, extensions=named
        ) as said,
    ):
        return "" if said.is_success else f"it was answered with {said.status_code}"
