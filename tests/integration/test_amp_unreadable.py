"""At a broker: what was no message is told to its sender, and fetched anew when a person asks."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.crash.children import nursery
from tests.crash.points import Moment, Point
from tests.desk import outcomes
from tests.integration.test_amp_watch import AmpDesk
from tests.plain_broker import running_plain_broker
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.mailbox.port import Refused
from agent_mailer.state.stuck import StuckEntry, StuckKind

BAD = "no moment"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrokerDesk, Person]]:
    with running_broker(tmp_path_factory.mktemp("broker")) as desk:
        yield desk, desk.person("someone")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrokerDesk, Person]]:
    with running_plain_broker(tmp_path_factory.mktemp("plain")) as desk:
        yield desk, desk.person("someone")


@pytest.fixture(params=["ours", pytest.param("plain", marks=LONG)])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AmpDesk:
    return AmpDesk(tmp_path, *request.getfixturevalue(request.param))


def dated(desk: AmpDesk, message_id: str, moment: str) -> str:
    """A row that no broker writes, or as it was; what it was dated before."""
    with closing(sqlite3.connect(desk.broker.database, timeout=10)) as base, base:
        [(before,)] = base.execute("SELECT created_at FROM messages WHERE id = ?", (message_id,)).fetchall()
        base.execute("UPDATE messages SET created_at = ? WHERE id = ?", (moment, message_id))
    return str(before)


def unreadable(desk: AmpDesk) -> list[StuckEntry]:
    found = desk.place().state.stuck.all()
    assert all(entry.kind is StuckKind.UNREADABLE for entry in found)
    return found


def test_its_sender_is_told_once_and_a_person_has_it_fetched_anew(desk: AmpDesk) -> None:
    sent = desk.mail()
    before = dated(desk, sent["id"], BAD)
    for _ in range(2):
        assert outcomes(desk.once()) == []
    [entry] = unreadable(desk)
    assert (entry.message_id, entry.sender, entry.thread) == ("", desk.planner["address"], sent["thread_id"])
    [told] = desk.answers()
    assert "was not worked on" in told["body"]
    assert f"agent-mailer stuck retry {entry.key}" in type_in(desk.workdir, "stuck", "show", entry.key).err
    # As bad as before: it is stuck again, and nobody hears of it twice.
    asked = type_in(desk.workdir, "stuck", "retry", entry.key)
    assert (asked.status, asked.out) == (0, f"{entry.key}: its mailbox is asked for it again\n")
    assert [one.wanted for one in unreadable(desk)] == [True]
    assert "its mailbox is asked for it again" in type_in(desk.workdir, "stuck", "list").out
    desk.once()
    assert [(one.key, one.wanted) for one in unreadable(desk)] == [(entry.key, False)]
    desk.once()
    assert len(desk.answers()) == 1
    dated(desk, sent["id"], before)
    assert outcomes(desk.once()) == [], "nobody has asked"
    assert type_in(desk.workdir, "stuck", "retry", "--all").status == 0
    assert outcomes(desk.once()) == ["done"]
    assert unreadable(desk) == []
    assert desk.unread() == []
    assert outcomes(desk.once()) == []


def test_who_is_killed_while_he_asks_has_it_worked_on_once(desk: AmpDesk) -> None:
    sent = desk.mail()
    before = dated(desk, sent["id"], BAD)
    desk.once()
    [entry] = unreadable(desk)
    dated(desk, sent["id"], before)
    assert type_in(desk.workdir, "stuck", "retry", entry.key).status == 0
    # The broker has heard, and that it has was not written down.
    asyncio.run(desk.place().mailbox().ask_again(entry.locator))
    assert outcomes(desk.once()) == ["done"]
    assert unreadable(desk) == []
    assert outcomes(desk.once()) == []


@LONG
@pytest.mark.parametrize("moment", list(Moment))
def test_who_is_killed_around_the_line_of_it_has_it_worked_on_once(desk: AmpDesk, moment: Moment) -> None:
    sent = desk.mail()
    before = dated(desk, sent["id"], BAD)
    desk.once()
    dated(desk, sent["id"], before)
    assert type_in(desk.workdir, "stuck", "retry", "--all").status == 0
    with nursery() as children:
        argv = ("watch", "--no-interactive", "--once", "--workdir", str(desk.workdir))
        point = Point("replace .agent-mailer/stuck.jsonl", 1, moment)
        assert children.run(*argv, stderr=desk.base / "stderr", point=point) == -9
    assert outcomes(desk.once()) == ["done"]
    assert unreadable(desk) == []
    assert outcomes(desk.once()) == []
    assert len([one for one in desk.answers() if one["body"].strip() == "done"]) == 1


def test_what_the_broker_has_no_more_stays_and_says_so(desk: AmpDesk) -> None:
    assert isinstance(asyncio.run(desk.place().mailbox().ask_again("id:nobody")), Refused)
    place = desk.place()
    place.prepare()
    place.state.stuck.add(StuckKind.UNREADABLE, "id:nobody", None, "it was none", locator="id:nobody")
    assert type_in(desk.workdir, "stuck", "retry", "id:nobody").status == 0
    desk.once()
    [entry] = unreadable(desk)
    assert (entry.wanted, entry.why) == (False, "the broker has it no more; before: it was none")
