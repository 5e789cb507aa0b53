"""A watcher operated from afar: what it reports, what it does when it is asked, and what it refuses."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.desk import until
from tests.integration.test_amp_watch import Overheard
from tests.remote_desk import RemoteDesk
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.events import EventName
from agent_mailer.remote.port import Standing


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrokerDesk, Person]]:
    with running_broker(tmp_path_factory.mktemp("broker")) as desk:
        yield desk, desk.person("someone")


@pytest.fixture
def desk(broker: tuple[BrokerDesk, Person], tmp_path: Path) -> RemoteDesk:
    return RemoteDesk(tmp_path, *broker)


SECRET = "sk-secret-of-the-command"
WORKS = f"""cat >/dev/null; echo '{{"type":"tool_start","id":"1","name":"Bash","detail":"deploy --key {SECRET}"}}'; \
exec sleep 300"""


@LONG
def test_an_agent_is_watched_paused_and_its_turn_stopped_from_afar(desk: RemoteDesk) -> None:
    desk.shell(WORKS)
    with desk.watching() as watcher:
        until(lambda: desk.report().version, "the first report")
        assert (desk.report().standing, desk.seen()["lost"]) == (Standing.IDLE, False)
        sent = desk.mail()
        until(lambda: any(one.tool for one in desk.report().working), "the tool")
        report = desk.report()
        [working] = report.working
        assert (working.message_id, working.thread, working.tool) == (sent["id"], sent["thread_id"], "Bash")
        assert report.standing is Standing.WORKS

        assert desk.became(desk.ask("pause", reason="I look at it"))[0] == "done"
        until(lambda: desk.report().pause, "the pause")
        assert desk.report().standing is Standing.PAUSED
        pause = desk.place().state.pause.read()
        assert pause is not None
        assert pause.detail == "someone: I look at it"

        state, lines = desk.became(desk.ask("stop", working.turn_id, then="drop"))
        assert (state, "is being stopped" in lines[0]) == ("done", True)
        until(lambda: desk.report().last, "the turn's end")
        last = desk.report().last
        assert last is not None
        assert (last.turn_id, last.outcome) == (working.turn_id, "interrupted")
        assert desk.became(desk.ask("stop", working.turn_id)) == ("refused", ["no such turn runs"])
        assert desk.became(desk.ask("resume"))[0] == "done"
        assert desk.place().state.pause.read() is None

        applied = [(one["request"], one.get("person")) for one in desk.log(EventName.REQUEST_APPLIED)]
        assert applied == [("pause", "someone"), ("turns stop", "someone"), ("resume", "someone")]
        kept = desk.broker.sql("SELECT report FROM reports WHERE agent_id = :id", id=desk.coder["id"])
        assert SECRET not in str(kept)
        assert "please" not in str(kept)
        watcher.send_signal(signal.SIGTERM)
        watcher.wait(30)
    assert (desk.report().ended, desk.seen()["lost"], desk.seen()["watcher"]) == ("stopped", False, None)


@LONG
def test_what_gives_power_is_refused_but_where_a_person_has_said_all(desk: RemoteDesk) -> None:
    desk.configure(deny_from=[desk.planner["address"]])
    with desk.watching():
        sent = desk.mail()
        until(lambda: desk.report().held, "the mail that is held")
        assert [(one.reason, one.key) for one in desk.report().held] == [("who", sent["id"])]
        state, [why] = desk.became(desk.ask("release", sent["id"]))
        assert (state, "config set remote all" in why) == ("refused", True)
        assert desk.report().held

        desk.configure(remote="all")
        until(lambda: desk.report().remote == "all", "the key is taken")
        assert desk.became(desk.ask("release", sent["id"]))[0] == "done"
        until(lambda: desk.log(EventName.MESSAGE_DONE), "the end of the message")
        assert desk.became(desk.ask("release", sent["id"])) == ("refused", ["nothing of it is held"])
        assert desk.became(desk.ask("raise", "turns_per_hour=5"))[0] == "refused"

        desk.configure(remote="none")
        until(lambda: desk.report().remote == "none", "the key is taken")
        assert desk.became(desk.ask("pause"))[0] == "refused"
        assert desk.place().state.pause.read() is None


@LONG
def test_what_was_given_up_is_run_again_from_afar(desk: RemoteDesk) -> None:
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; exit 3")
    with desk.watching():
        sent = desk.mail()
        until(lambda: desk.report().stuck, "what was given up")
        [stuck] = desk.report().stuck
        assert (stuck.reason, stuck.key, stuck.thread) == ("given-up", sent["id"], sent["thread_id"])
        assert [(one.word, one.many) for one in desk.report().stuck_counts] == [("given-up", 1)]
        desk.shell("""cat >/dev/null; echo '{"type":"result","outcome":"done","text":"now"}'""")
        until(lambda: desk.log(EventName.CONFIG_TAKEN), "the new command")
        assert desk.became(desk.ask("retry", f"given-up {sent['id']}"))[0] == "done"
        until(desk.answers, "the answer")
        until(lambda: not desk.report().stuck_counts, "nothing is stuck")
        assert desk.became(desk.ask("retry", f"given-up {sent['id']}")) == ("refused", ["nothing of it is stuck"])


@LONG
def test_a_question_stands_in_the_report_until_its_thread_moves_on(desk: RemoteDesk) -> None:
    desk.shell("""cat >/dev/null; echo '{"type":"result","outcome":"blocked","text":"red or blue?"}'""")
    with desk.watching():
        sent = desk.mail()
        until(lambda: desk.report().questions, "the question")
        [question] = desk.report().questions
        assert (question.thread, question.message_id, question.tool) == (sent["thread_id"], sent["id"], "")
        assert desk.report().standing is Standing.ASKS
        assert "red or blue" not in str(desk.broker.sql("SELECT report FROM reports"))


@LONG
def test_what_is_asked_while_nobody_watches_waits_and_a_killed_watcher_is_lost(desk: RemoteDesk) -> None:
    number = desk.ask("pause")
    gone = desk.ask("pause", seconds=1)
    with desk.watching() as watcher:
        assert desk.became(number)[0] == "done"
        until(lambda: desk.report().pause, "the report")
        os.kill(watcher.pid, signal.SIGKILL)
        watcher.wait(30)
        until(lambda: desk.seen()["lost"], "the loss")
    assert desk.requests()[gone]["state"] in ("expired", "done")
    assert desk.report().seen >= number


@LONG
def test_an_idle_watcher_says_nothing(tmp_path: Path) -> None:
    overheard = Overheard()
    with running_broker(tmp_path, behind=overheard.before, heartbeat_seconds=0.2) as broker:
        desk = RemoteDesk(tmp_path, broker, broker.person("someone"))
        with desk.watching():
            until(lambda: desk.report().version, "the first report")
            _heartbeats(desk, 15)
            asked = [what for what, _ in overheard.asked]
            assert 1 <= sum(what.endswith("/report") for what in asked) <= 3
            _heartbeats(desk, 15)
            assert [what for what, _ in overheard.asked] == asked


def _heartbeats(desk: RemoteDesk, count: int) -> None:
    """So many of a stream's have passed."""
    path = f"/messages/inbox/{desk.planner['address']}/stream?agent_id={desk.planner['id']}"
    with desk.broker.http.stream("GET", path, headers=desk.person.header) as answer:
        for line in answer.iter_lines():
            count -= line.startswith(": ping")
            if count <= 0:
                return


@LONG
def test_what_leaves_by_the_clock_is_reported_and_what_does_not(desk: RemoteDesk) -> None:
    desk.shell("cat >/dev/null")
    (desk.workdir / "look.md").write_text("look at it")
    hourly = {"name": "hourly", "cron": "0 * * * *", "subject": "The hour", "body": "look.md"}
    desk.configure(schedule=[hourly])
    with desk.watching():
        until(lambda: desk.report().schedules, "the schedule in the report")
        [told] = desk.report().schedules
        assert (told.name, told.when, told.sent, told.why) == ("hourly", "0 * * * * UTC", "", "")
        assert told.next_at is not None
        assert told.next_at % 3600 == 0
        assert "The hour" not in str(desk.seen())
        assert type_in(desk.workdir, "schedules", "run", "hourly").status == 0
        until(lambda: desk.report().schedules[0].sent, "what was sent")
        [told] = desk.report().schedules
        thread = desk.broker.call("GET", f"/messages/{told.sent}", headers=desk.person.header)
        assert thread["subject"] == "The hour"
        assert told.sent_at is not None
        (desk.workdir / "look.md").write_text("look at something else")
        desk.mail()
        until(lambda: desk.report().schedules[0].why, "the word for what keeps it")
        assert desk.report().schedules[0].why == "body_changed"
