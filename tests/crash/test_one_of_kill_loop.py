"""kill -9 of two watchers at random moments, while mail comes that one of both takes: each is worked on once.

No agent is killed, and a turn outlives its watcher: whatever ran twice was taken twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import tomlkit
from tests.broker_process import broker, join, register
from tests.crash.children import nursery
from tests.crash.loop import SEED, Workdir
from tests.desk import Desk, until
from tests.fake_relay import running
from tests.sizes import LONG, SOAK

from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.port import Action, Draft, Refused
from agent_mailer.mailbox.relay.reader import row_in

ROUNDS = (pytest.param(6, id="long", marks=LONG), pytest.param(300, id="soak", marks=SOAK))
WORKS = 'cat >/dev/null; printf "%s\\n" "$AGENT_MAILER_MESSAGE_ID" >>"$0"'


class Scene(NamedTuple):
    """`send` returns the names of a message's copies; `second` is what the other member's configuration has else."""

    settings: Mapping[str, Any]
    second: Mapping[str, Any]
    send: Callable[[int], Sequence[str]]


@contextmanager
def in_folder(desk: Desk) -> Iterator[Scene]:
    def send(number: int) -> Sequence[str]:
        user = MaildirMailbox(desk.disk, desk.root, "user")
        draft = Draft(
            f"k{number}",
            Action.SEND,
            time.time(),
            to=("coder", "planner"),
            body="work",
            thread=f"t{number}",
            labels=("one-of:cap:work",),
        )
        items = user.compose(draft, None, "turn")
        assert not isinstance(items, Refused)
        for item in items:
            asyncio.run(user.deliver(item))
        return [items[0].id]

    yield Scene({}, {"address": "planner"}, send)


@contextmanager
def at_relay(desk: Desk) -> Iterator[Scene]:
    with running(desk.base / "base") as (url, _):

        def send(number: int) -> Sequence[str]:
            order = {"from": "user", "to": "cap:work", "claimable": True, "body": f"work {number}"}
            return [row_in(httpx.post(f"{url}/api/messages", json=order, trust_env=False).content).id]

        desk.settings.pop("maildir_root")
        yield Scene({"mailbox": "relay", "broker_url": url, "poll_interval_idle": 1}, {"address": "planner"}, send)


@contextmanager
def at_our_broker(desk: Desk) -> Iterator[Scene]:
    with broker(desk.base / "data") as process:
        account = join(process.url, "ann", process.invite)
        coder, planner, sender = (register(process.url, account, name) for name in ("coder", "planner", "sender"))

        def send(number: int) -> Sequence[str]:
            form = {"agent_id": sender["id"], "from_agent": sender["address"], "body": "work"}
            marks = {"labels": ["one-of:cap:work"], "one_of": f"send {number}"}
            answers = [
                httpx.post(
                    f"{process.url}/messages/send",
                    json={**form, **marks, "to_agent": member["address"]},
                    headers=account.as_agent,
                    trust_env=False,
                )
                for member in (coder, planner)
            ]
            return [answer.raise_for_status().json()["id"] for answer in answers]

        desk.settings.pop("maildir_root")
        settings = {"broker_url": process.url, "api_key": account.key, "agent_id": coder["id"]}
        second = {"address": planner["address"], "agent_id": planner["id"]}
        yield Scene({**settings, "address": coder["address"]}, second, send)


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("where", [in_folder, at_relay, at_our_broker])
def test_watchers_are_killed_and_what_one_may_take_is_worked_on_once(
    tmp_path: Path, where: Callable[[Desk], Any], rounds: int
) -> None:
    chance, witness = random.Random(SEED + 7), tmp_path / "witness"
    desk = Desk(tmp_path)
    with where(desk) as scene, nursery() as children:
        common: Mapping[str, Any] = {
            **scene.settings,
            "groups": ["cap:work"],
            "auto_reply": "never",
            "guards": {"turns_per_hour": 0, "new_threads": 0},
            "command": ["/bin/sh", "-c", WORKS, str(witness)],
        }
        desk.configure(**common)
        pair = (Workdir(desk.workdir, children), Workdir(tmp_path / "planner", children))
        pair[1].state.mkdir(parents=True, mode=0o700)
        config = pair[1].state / "config.toml"
        config.write_text(tomlkit.dumps({**desk.settings, **scene.second}))
        config.chmod(0o600)
        sent: list[Sequence[str]] = []
        try:
            for number in range(rounds):
                for one in pair:
                    one.watch()
                sent += [scene.send(2 * number), scene.send(2 * number + 1)]
                time.sleep(chance.uniform(0.0, 0.4))  # when the kill falls is part of the lot
                for one in chance.sample(pair, chance.choice((1, 2))):
                    one.end()
            for one in pair:
                one.watch()
            first = {name: copies[0] for copies in sent for name in copies}

            def worked() -> list[str]:
                return [first[name] for name in witness.read_text().split()]

            until(lambda: witness.exists() and {*worked()} == {*first.values()}, "some were lost")
            until(lambda: all(one.at_rest() for one in pair), "a turn does not settle")
        finally:
            for one in pair:
                one.end()
    assert Counter(worked()) == Counter({*first.values()})
    settled = [first[line] for one in pair for line in one.settled()]
    assert Counter(settled) == Counter({*first.values()})
