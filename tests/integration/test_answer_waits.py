"""An answer that waits to leave is shown as what it is, and counts where that lasts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp
from tests.broker_desk import running_broker
from tests.clocks import FakeClock
from tests.desk import Desk, until
from tests.integration.test_amp_again import Moods, Moody
from tests.integration.test_amp_watch import AmpDesk
from tests.integration.test_degraded import Watch
from tests.plain_broker import running_plain_broker
from tests.refusing import Refusing
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.views.local import look
from agent_mailer.views.standing import standing_in
from agent_mailer.views.turns import whole_turn
from agent_mailer.watch.watcher import Watcher


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def gated(desk: Desk) -> Path:
    """The agent ends when this file is there."""
    go = desk.base / "go"
    desk.shell(f"cat >/dev/null; while [ ! -e '{go}' ]; do sleep 0.05; done; echo done")
    return go


def arrived(desk: Desk, handle: str) -> list[Path]:
    return list(Paths(desk.root, handle).new.glob("*.md"))


def fates(desk: Desk, turn_id: str) -> list[tuple[str, str]]:
    """To whom the turn has written, and what is said to have become of that."""
    return [(sent.to, sent.state) for sent in whole_turn(desk.place().state, turn_id).sent]


def test_while_the_mailbox_answers_otherwise(desk: Desk) -> None:
    """Nothing of the watcher's own is in trouble: without this it would be healthy, with a turn that runs."""
    watch = Watch(desk)

    async def story(watcher: Watcher) -> None:
        del watcher
        await watch.until_open()
        with watch.over(Refusing("agents/planner")):
            sent = await asyncio.to_thread(desk.send, sender="planner", thread="t")
            await watch.until(lambda: watch.seen(EventName.ITEM_POSTPONED), "the answer waits")
            await watch.until(lambda: list(desk.state.glob("turns/*/progress.json")), "who looks on is told")
            found = (await asyncio.to_thread(type_in, desk.workdir, "status", "--json")).json
            assert found["running"] == []
            [waits] = found["settling"]
            assert (waits["message_id"], waits["to"], found["trouble"]) == (sent, "planner", None)
            assert "No space left" in waits["why"]
            assert [problem["code"] for problem in found["problems"]] == []
            screen = (await asyncio.to_thread(type_in, desk.workdir, "status")).out
            assert "an answer to planner waits to leave: " in screen
            [turn] = (await asyncio.to_thread(type_in, desk.workdir, "turns", "list", "--json")).json["turns"]
            assert turn["waits"].startswith("to planner: ")
            assert "waits to settle" in (await asyncio.to_thread(type_in, desk.workdir, "turns", "list")).out
            shown = (await asyncio.to_thread(type_in, desk.workdir, "turns", "show", turn["turn_id"])).out
            assert "waits" in shown
            assert "No space left" in shown
            told = await asyncio.to_thread(standing_in, desk.workdir, sent, "t")
            assert told is not None
            assert "its answer to planner waits to leave since" in told.text
        await watch.until(lambda: arrived(desk, "planner"), "it leaves")
        await watch.until(lambda: desk.log(EventName.TURN_SETTLED), "it is settled")

    watch.run(story)
    assert type_in(desk.workdir, "status", "--json").json["settling"] == []
    assert [turn["waits"] for turn in type_in(desk.workdir, "turns", "list", "--json").json["turns"]] == [""]


def test_its_place_is_free_for_other_mail_at_once(desk: Desk) -> None:
    """Nothing else wakes the watcher: the mail was there before, and the next look is far away."""
    desk.configure(max_parallel_turns=1, poll_interval_idle=600)
    go, watch = gated(desk), Watch(desk)

    async def story(watcher: Watcher) -> None:
        del watcher
        await watch.until_open()
        with watch.over(Refusing("agents/planner")):
            go.touch()
            await watch.until(lambda: watch.seen(EventName.ITEM_POSTPONED), "the answer waits")
            await watch.until(lambda: arrived(desk, "user"), "another thread goes on")

    desk.send(sender="planner", thread="t")
    desk.send(thread="other")
    watch.run(story)


def test_where_it_lasts_it_is_a_problem_also_without_a_watcher(desk: Desk) -> None:
    desk.send(sender="planner")
    desk.once(system=Refusing("agents/planner"))
    codes = [problem["code"] for problem in type_in(desk.workdir, "status", "--json").json["problems"]]
    assert codes == ["no_watcher"]
    found = look(desk.place(FakeClock(time.time() + 400.0)))
    [waits] = found.settling
    assert waits.to == "planner"
    [problem] = [one for one in found.problems if one.code == "answer_waits"]
    assert problem.text.startswith("an answer to planner has waited to leave for ")
    assert waits.turn_id in problem.fix
    assert fates(desk, waits.turn_id) == [("planner", "pending")]
    assert "left open: the next watcher takes it up" in type_in(desk.workdir, "status").out
    desk.once()
    assert look(desk.place(FakeClock(time.time() + 400.0))).settling == ()
    assert fates(desk, waits.turn_id) == [("planner", "delivered")]
    assert [message.body for message in desk.inbox("planner")] == ["done\n"]


def test_a_mailbox_that_is_gone(desk: Desk) -> None:
    """The answer waits, and so does the mailbox's own trouble."""
    watch = Watch(desk)
    desk.shell("cat >/dev/null; mv " + f"'{desk.root}' '{desk.root}.away'; echo done")

    async def story(watcher: Watcher) -> None:
        del watcher
        await watch.until_open()
        await asyncio.to_thread(desk.send)
        await watch.until(lambda: list(desk.state.glob("turns/*/progress.json")), "who looks on is told")
        found = (await asyncio.to_thread(type_in, desk.workdir, "status", "--json")).json
        assert found["running"] == []
        [waits] = found["settling"]
        assert waits["why"]
        assert found["trouble"]["what"] == "mailbox"
        await asyncio.to_thread(Path(f"{desk.root}.away").rename, desk.root)
        await watch.until(lambda: arrived(desk, "user"), "it leaves")

    watch.run(story)


# At a broker


@pytest.fixture(scope="module", params=["ours", pytest.param("plain", marks=LONG)])
def moods(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moods]:
    before: list[Moody] = []

    def behind(app: ASGIApp) -> ASGIApp:
        before.append(Moody(app))
        return before[-1]

    running = running_broker if request.param == "ours" else running_plain_broker
    with running(tmp_path_factory.mktemp("moody"), behind=behind) as broker:
        yield broker, broker.person("someone"), before[0]


@pytest.fixture
def at_broker(moods: Moods, tmp_path: Path) -> Iterator[AmpDesk]:
    broker, person, moody = moods
    yield AmpDesk(tmp_path, broker, person)
    moody.behaves = lambda method, path: None


def status(desk: Desk) -> dict[str, Any]:
    found: dict[str, Any] = type_in(desk.workdir, "status", "--json").json
    return found


def takes_no_mail(method: str, path: str) -> tuple[int, object] | None:
    return (503, {"detail": "no room for mail"}) if (method, path) == ("POST", "/messages/send") else None


def answers_nothing(method: str, path: str) -> tuple[int, object] | None:
    return 503, {"detail": "closed"}


def reasons(desk: Desk) -> list[str]:
    return [waits["why"] for waits in status(desk)["settling"] if waits["why"]]


@LONG
def test_a_broker_that_takes_no_mail_and_answers_otherwise(moods: Moods, at_broker: AmpDesk) -> None:
    desk, moody = at_broker, moods[2]
    go = gated(desk)
    with desk.watching():
        sent = [desk.mail()["id"], desk.mail()["id"]]
        until(lambda: desk.log(EventName.TURN_STARTED), "the first turn")
        moody.behaves = takes_no_mail
        go.touch()
        until(lambda: len(reasons(desk)) == 2, "both answers wait: a settlement holds no place")
        found = status(desk)
        assert {waits["message_id"] for waits in found["settling"]} == set(sent)
        assert {waits["to"] for waits in found["settling"]} == {desk.planner["address"]}
        assert all("no room for mail" in why for why in reasons(desk))
        assert (found["running"], found["trouble"], found["problems"]) == ([], None, [])
        turns = type_in(desk.workdir, "turns", "list", "--json").json["turns"]
        assert all("no room for mail" in turn["waits"] for turn in turns)
        later = look(desk.place(FakeClock(time.time() + 400.0))).problems
        assert [one.text.split(" has waited")[0] for one in later if one.code == "answer_waits"] == [
            f"an answer to {desk.planner['address']}"
        ]
        moody.behaves = lambda method, path: None
        until(lambda: len(desk.answers()) == 2, "both leave")
        until(lambda: not status(desk)["settling"], "both are settled")
    assert sorted(one["body"].strip() for one in desk.answers()) == ["done", "done"]


@LONG
def test_a_broker_that_is_gone_and_comes_back(moods: Moods, at_broker: AmpDesk) -> None:
    desk, moody = at_broker, moods[2]
    go = gated(desk)
    with desk.watching():
        desk.mail()
        until(lambda: desk.log(EventName.TURN_STARTED), "the turn")
        moody.behaves = answers_nothing
        go.touch()
        until(lambda: reasons(desk), "the answer waits")
        until(lambda: status(desk)["trouble"], "so does the watcher")
        found = status(desk)
        assert (found["running"], found["trouble"]["what"]) == ([], "mailbox")
        moody.behaves = lambda method, path: None
        until(lambda: len(desk.answers()) == 1, "it leaves")
        until(lambda: not status(desk)["settling"], "it is settled")
