"""A broker that does not give what it lists, or does not keep what it was told: others go on, and all of it ends."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.broker_desk import BrokerDesk, Person
from tests.clocks import FakeClock
from tests.crash.children import nursery
from tests.crash.points import Moment, Point
from tests.desk import outcomes
from tests.integration.test_amp_watch import AmpDesk
from tests.plain_broker import _answer, running_plain_broker
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.events import EventName
from agent_mailer.state.stuck import StuckKind
from agent_mailer.watch.rules import MOST_FETCHES

Behaviour = Callable[[str, str], tuple[int, object] | None]


class Moody:
    """ASGI middleware: what `behaves` says for a method and path is the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.behaves: Behaviour = lambda method, path: None
        self.asked: list[str] = []
        self.halted = False
        """It takes requests, and answers none until this is over."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.asked.append(f"{scope['method']} {scope['path']}")
            while self.halted:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            answer = self.behaves(scope["method"], scope["path"])
            if answer is not None:
                await _answer(send, *answer)
                return
        await self._app(scope, receive, send)


Moods = tuple[BrokerDesk, Person, Moody]


@pytest.fixture(scope="module")
def moods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moods]:
    before: list[Moody] = []

    def behind(app: ASGIApp) -> ASGIApp:
        before.append(Moody(app))
        return before[-1]

    with running_plain_broker(tmp_path_factory.mktemp("moody"), behind=behind) as desk:
        yield desk, desk.person("someone"), before[0]


@pytest.fixture
def desk(moods: Moods, tmp_path: Path) -> Iterator[AmpDesk]:
    broker, person, moody = moods
    moody.asked.clear()
    yield AmpDesk(tmp_path, broker, person)
    moody.behaves = lambda method, path: None
    moody.halted = False


def without_thread(thread: str, status: int) -> Behaviour:
    wanted = f"/messages/thread/{thread}"
    return lambda method, path: (status, {"detail": "there is none"}) if path == wanted else None


@LONG
def test_one_that_cannot_be_fetched_starves_nobody_and_at_last_waits_for_a_person(moods: Moods, desk: AmpDesk) -> None:
    """Each try is counted on the disk, whichever watcher makes it, and costs the message no attempt."""
    clock = FakeClock()
    lost = desk.mail()
    moods[2].behaves = without_thread(lost["thread_id"], 404)
    desk.mail()
    for number in range(MOST_FETCHES):
        assert not desk.place().state.stuck.all()
        assert outcomes(desk.once(clock)) == ([] if number else ["done"])
        assert len(desk.log(EventName.MESSAGE_GONE)) == number + 1
        clock.moment += 200
    state = desk.place().state
    assert [(entry.kind, entry.message_id) for entry in state.stuck.all()] == [(StuckKind.NOT_FETCHED, lost["id"])]
    assert list(state.retries.all()) == []
    assert lost["id"] not in state.processed
    assert outcomes(desk.once(clock)) == []
    assert [row["tries"] for row in desk.log(EventName.MESSAGE_GONE)] == list(range(1, MOST_FETCHES + 1))
    # What a person does once the broker is whole again.
    moods[2].behaves = lambda method, path: None
    state.stuck.remove([(StuckKind.NOT_FETCHED, lost["id"])])
    events = desk.once(clock)
    assert outcomes(events) == ["done"]
    assert [event.fields["attempt"] for event in events if event.event is EventName.TURN_CLAIMED] == [1]


@LONG
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("moment", list(Moment))
def test_the_sender_of_what_cannot_be_fetched_hears_once_whoever_is_killed(
    moods: Moods, desk: AmpDesk, number: int, moment: Moment
) -> None:
    """Killed around the line that says what is stuck, and around the one that says that its sender was told."""
    # The broker dates mail by its own clock: ours must not be ahead of it.
    clock = FakeClock(time.time() - 3600)
    lost = desk.mail()
    moods[2].behaves = without_thread(lost["thread_id"], 404)
    for _ in range(MOST_FETCHES - 1):
        desk.once(clock)
        clock.moment += 200
    with nursery() as children:
        argv = ("watch", "--no-interactive", "--once", "--workdir", str(desk.workdir))
        point = Point("fsync .agent-mailer/stuck.jsonl", number, moment)
        assert children.run(*argv, stderr=desk.base / "stderr", point=point) == -9
    for _ in range(3):
        desk.once()
    [told] = desk.answers()
    assert "was not worked on" in told["body"]
    [entry] = desk.place().state.stuck.all()
    assert (entry.kind, entry.unheard) == (StuckKind.NOT_FETCHED, False)


@LONG
def test_one_whose_claim_fails_starves_nobody_and_has_a_day(moods: Moods, desk: AmpDesk) -> None:
    clock = FakeClock()
    ill = desk.mail()
    moods[2].behaves = without_thread(ill["thread_id"], 500)
    desk.mail()
    for number in range(MOST_FETCHES + 1):
        assert ("done" in outcomes(desk.once(clock))) == (number == 0)
        clock.moment += 200
    state = desk.place().state
    assert state.stuck.all() == []
    [entry] = state.retries.all()
    assert (entry.envelope.id, entry.attempts, entry.starts) == (ill["id"], 0, 0)
    clock.moment += 86400
    desk.once(clock)
    assert [one.message_id for one in desk.place().state.stuck.all()] == [ill["id"]]
    moods[2].behaves = lambda method, path: None
    desk.place().state.stuck.remove([(StuckKind.NOT_FETCHED, ill["id"])])
    clock.moment += 200
    assert outcomes(desk.once(clock)) == ["done"]


def test_one_that_somebody_else_takes_leaves_nothing(moods: Moods, desk: AmpDesk) -> None:
    taken = desk.mail()
    moods[2].behaves = without_thread(taken["thread_id"], 404)
    desk.once()
    assert [entry.envelope.id for entry in desk.place().state.retries.all()] == [taken["id"]]
    desk.broker.call("PATCH", f"/messages/{taken['id']}/read", headers=desk.person.header)
    desk.once()
    assert list(desk.place().state.retries.all()) == []


def forgetful(method: str, path: str) -> tuple[int, object] | None:
    return (200, {}) if method == "PATCH" and re.fullmatch(r"/messages/[^/]+/read", path) else None


@LONG
def test_where_the_broker_forgets_what_was_read_our_own_record_decides(moods: Moods, desk: AmpDesk) -> None:
    """A message that fails is given up once, with one notice, however often it is listed."""
    moods[2].behaves = forgetful
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; exit 1")
    failed = desk.mail()
    assert outcomes(desk.once()) == ["failed"]
    desk.shell("cat >/dev/null; echo done")
    done = desk.mail()
    assert outcomes(desk.once()) == ["done"]
    moods[2].asked.clear()
    for _ in range(3):
        assert outcomes(desk.once()) == []
    assert len(desk.answers()) == 2
    assert {one["id"] for one in desk.unread()} == {failed["id"], done["id"]}
    assert [one.msg_id for one in desk.place().state.dead_letters.all()] == [failed["id"]]


@LONG
def test_a_watcher_tells_a_forgetful_broker_but_once(moods: Moods, desk: AmpDesk) -> None:
    from tests.desk import until

    moods[2].behaves = forgetful
    first = desk.mail()
    with desk.watching():
        until(lambda: desk.log(EventName.MESSAGE_SET_ASIDE), "the message, listed again")
        for number in range(2):
            desk.mail()
            until(lambda n=number: len(desk.log(EventName.MESSAGE_DONE)) == 2 + n, "another message")  # type: ignore[misc]
    asides = [row["message_id"] for row in desk.log(EventName.MESSAGE_SET_ASIDE)]
    assert asides.count(first["id"]) == 1


@LONG
def test_one_that_cannot_be_put_aside_starves_nobody(moods: Moods, desk: AmpDesk) -> None:
    old = desk.mail()
    desk.place().state.processed.add(old["id"])
    wanted = f"/messages/{old['id']}/read"
    moods[2].behaves = lambda method, path: (500, {"detail": "no"}) if path == wanted else None
    desk.mail()
    assert outcomes(desk.once()) == ["done"]
    assert len(desk.log(EventName.MAILBOX_TROUBLE)) == 1


@LONG
def test_a_watcher_that_waits_for_its_broker_does_not_stand_still(moods: Moods, desk: AmpDesk) -> None:
    from tests.desk import until

    def problems() -> list[tuple[str, str]]:
        found = type_in(desk.workdir, "status", "--json").json["problems"]
        return [(problem["code"], problem["text"]) for problem in found]

    with desk.watching():
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher")
        asked = len(moods[2].asked)
        moods[2].halted = True
        until(lambda: len(moods[2].asked) > asked, "the look that hangs")
        found = problems()
        assert len(found) == 1, found
        [(code, text)] = found
        assert (code, "no answer within" in text or "it has not answered for" in text) == ("mailbox", True), text
        refused = type_in(desk.workdir, "pause")
        assert refused.status == 69, refused
        assert "waits for its mailbox: it has not answered for" in refused.err
        assert "nothing was changed" in refused.err
        assert desk.place().state.pause.read() is None
        moods[2].halted = False
        until(lambda: not problems(), "all is well again")
