"""What the watcher itself writes into a thread meanwhile is no answer of the agent's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.broker_desk import running_broker
from tests.desk import Desk, until
from tests.integration.test_amp_watch import AmpDesk
from tests.integration.test_degraded import Watch
from tests.sizes import LONG

from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.watch.watcher import Watcher


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def answers(desk: Desk, during: Callable[[], object]) -> list[str]:
    """Of a turn in the thread of the two; while it runs `during` is called, and something leaves."""
    watch, go = Watch(desk), desk.base / "go"
    desk.shell(f"cat >/dev/null; while [ ! -e '{go}' ]; do sleep 0.02; done; echo done")

    async def story(watcher: Watcher) -> None:
        await watch.until_open()
        sent = await asyncio.to_thread(desk.send, "the question")
        await watch.until(lambda: list(desk.state.glob("turns/*/started")), "the turn")
        await asyncio.to_thread(during)
        await watch.until(lambda: list(Paths(desk.root, "user").new.glob("*.md")), "what the watcher writes meanwhile")
        go.touch()
        await watch.until(lambda: sent in desk.place().state.processed, "its end")

    watch.run(story)
    return [message.body.strip() for message in desk.inbox() if message.subject.startswith("Re:")]


def test_a_notice_to_the_operator(desk: Desk) -> None:
    """He asks in the thread in which the watcher mails him, as that of two is the same."""
    desk.configure(deny_from=["planner"], notify={"address": "user"})
    assert "done" in answers(desk, lambda: desk.send("x", sender="planner"))


def test_a_word_about_another_text_under_an_id_of_the_thread(desk: Desk) -> None:
    """The model came by this once, and could not say how."""
    desk.shell("cat >/dev/null")
    first = desk.send("before")
    desk.once()

    def again() -> None:
        paths = Paths(desk.root, "coder")
        other = paths.tmp / "again.md"
        other.write_bytes((paths.cur / f"{first}.md").read_bytes() + b"more\n")
        other.rename(paths.new / "again.md")

    assert "done" in answers(desk, again)


def test_what_another_turn_writes_into_the_thread(desk: Desk) -> None:
    """Who writes to a person without naming a thread writes into that of the two."""
    desk.configure(max_parallel_turns=2)
    watch, go = Watch(desk), desk.base / "go"
    draft = '{"key":"k","action":"send","created":%s,"to":["user"],"subject":"job","body":"job done"}'
    desk.shell(f"""cat >/dev/null; case $AGENT_MAILER_THREAD_ID in
job) printf '{draft}' "$(($(date +%s) + 1))" >"$AGENT_MAILER_TURN_DIR/outbox/k.json";;
*) while [ ! -e '{go}' ]; do sleep 0.02; done; echo done;;
esac""")

    async def story(watcher: Watcher) -> None:
        await watch.until_open()
        sent = await asyncio.to_thread(desk.send, "the question")
        await watch.until(lambda: list(desk.state.glob("turns/*/started")), "the turn")
        await asyncio.to_thread(desk.send, "the job", thread="job")
        await watch.until(lambda: list(Paths(desk.root, "user").new.glob("*.md")), "what the other turn sends")
        go.touch()
        await watch.until(lambda: sent in desk.place().state.processed, "its end")

    watch.run(story)
    assert sorted(message.body.strip() for message in desk.inbox()) == ["done", "job done"]
    assert len({message.envelope.thread for message in desk.inbox()}) == 1


@LONG
def test_at_a_broker_what_a_schedule_sends_in_the_agents_own_name(tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker:
        desk = AmpDesk(tmp_path, broker, broker.person("someone"))
        go = tmp_path / "go"
        desk.shell(f"cat >/dev/null; while [ ! -e '{go}' ]; do sleep 0.02; done; echo done")
        with desk.watching():
            thread = desk.mail()["thread_id"]
            until(lambda: list(desk.state.glob("turns/*/started")), "the turn")
            broker.send(desk.person, desk.coder, desk.coder["address"], subject="night", body="x", thread_id=thread)
            go.touch()
            until(lambda: len(list(desk.state.glob("turns/*/settled"))) == 2, "the end of both")
        assert [answer["body"].strip() for answer in desk.answers()] == ["done"]
