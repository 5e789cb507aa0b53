"""An answer that waits to leave is shown as what it is, and counts where that lasts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.desk import Desk
from tests.integration.test_degraded import Watch
from tests.integration.test_engine_turn import FullFor
from tests.typed import type_in

from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.views.local import look
from agent_mailer.views.standing import standing_in
from agent_mailer.watch.watcher import Watcher


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def arrived(desk: Desk, handle: str) -> list[Path]:
    return list(Paths(desk.root, handle).new.glob("*.md"))


def test_while_the_mailbox_answers_otherwise(desk: Desk) -> None:
    """Nothing of the watcher's own is in trouble: without this it would be healthy, with a turn that runs."""
    watch = Watch(desk)

    async def story(watcher: Watcher) -> None:
        del watcher
        await watch.until_open()
        with watch.over(FullFor(desk.root / "agents/planner")):
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


def test_where_it_lasts_it_is_a_problem_also_without_a_watcher(desk: Desk) -> None:
    desk.send(sender="planner")
    desk.once(system=FullFor(desk.root / "agents/planner"))
    codes = [problem["code"] for problem in type_in(desk.workdir, "status", "--json").json["problems"]]
    assert codes == ["no_watcher"]
    found = look(desk.place(FakeClock(time.time() + 400.0)))
    [waits] = found.settling
    assert waits.to == "planner"
    [problem] = [one for one in found.problems if one.code == "answer_waits"]
    assert problem.text.startswith("an answer to planner has waited to leave for ")
    assert waits.turn_id in problem.fix
    assert "left open: the next watcher takes it up" in type_in(desk.workdir, "status").out
    desk.once()
    assert look(desk.place(FakeClock(time.time() + 400.0))).settling == ()
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
