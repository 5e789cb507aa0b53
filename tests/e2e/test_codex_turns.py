"""Turns of the real codex: reading, answering, going on in a session, tools, clocks, a watcher that dies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.desk import SOON, until
from tests.e2e.codex_desk import KEY, CodexDesk
from tests.e2e.fake_openai import (
    CODE_MODEL,
    PLAIN_MODEL,
    FakeOpenAI,
    Mail,
    Say,
    Shell,
    Silence,
    Think,
    closed_port,
    fake_openai,
    provider_arguments,
    refusal,
    usage_limit,
)
from tests.sizes import LONG

from agent_mailer.events import EventName

pytestmark = LONG

READ = Mail("read_message")


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with fake_openai() as server:
        yield server


@pytest.fixture
def desk(tmp_path: Path, fake: FakeOpenAI) -> CodexDesk:
    return CodexDesk(tmp_path, fake)


def reply(body: str) -> Mail:
    return Mail("reply", {"body": body})


@pytest.mark.parametrize(
    ("mode", "model"),
    [
        ("plan", CODE_MODEL),
        ("acceptEdits", CODE_MODEL),
        ("acceptEdits", PLAIN_MODEL),
        ("bypassPermissions", CODE_MODEL),
    ],
)
def test_a_fresh_turn_reads_and_answers_through_the_tools(
    tmp_path: Path, fake: FakeOpenAI, mode: str, model: str
) -> None:
    desk = CodexDesk(tmp_path, fake, mode)
    desk.configure(model=model)
    fake.script(READ, Shell("echo made > made.txt; id -u > /dev/null"), reply("the answer"), Say("finished"))
    desk.send("what is seven times six?")
    assert desk.run() == ["done"]
    assert desk.answered() == ["the answer"]
    assert any("what is seven times six?" in text for text in fake.texts(1)), "the mail reached the model"
    assert (desk.workdir / "made.txt").exists() is (mode != "plan")
    assert fake.keys == [f"Bearer {KEY}"] * 4
    assert desk.session() in desk.rollouts()[0].name
    assert desk.alive() == []


def test_the_sandbox_has_no_network_and_the_tools_answer_in_it(desk: CodexDesk, fake: FakeOpenAI) -> None:
    probe = f"exec 3<>/dev/tcp/127.0.0.1/{fake.url.split(':')[2].split('/')[0]} && echo connected || echo no network"
    fake.script(Shell(probe), READ, Say("finished"))
    desk.send("a mail")
    assert desk.run() == ["done"]
    assert any("no network" in text and "connected" not in text for text in fake.texts(1)[-1:])
    assert any("a mail" in text for text in fake.texts(2)[-2:])


def test_the_mail_commands_are_found_and_answer_from_its_shell(desk: CodexDesk, fake: FakeOpenAI) -> None:
    fake.script(Shell("agent-mailer mail read && agent-mailer mail reply --body 'by command'"), Say("finished"))
    desk.send("a mail")
    assert desk.run() == ["done"]
    assert "a mail" in fake.texts(1)[-1]
    assert desk.answered() == ["by command"]


def test_the_next_mail_of_a_thread_goes_on_in_its_session(desk: CodexDesk, fake: FakeOpenAI) -> None:
    fake.script(READ, Say("first"))
    desk.send("one", thread="talk")
    assert desk.run() == ["done"]
    session = desk.session()
    fake.script(Think("**a thought**", "a remark", Shell("true")), Say("second"))
    desk.send("two", thread="talk")
    assert desk.run() == ["done"]
    assert desk.session() == session
    assert len(desk.rollouts()) == 1
    assert any("first" in text for text in fake.texts(-1)), "the model sees the earlier turn"
    usage = desk.record()["settlement"]["usage"]
    assert usage["input_tokens"] == 200, "codex counts the whole thread; only the turn's own share is recorded"
    assert desk.sessions()["talk"]["spent"]["input_tokens"] == 400


@pytest.mark.parametrize("how", ["its file is gone", "nobody knows it", "it is no id of codex"])
def test_a_lost_session_is_dropped_and_the_mail_done_in_a_fresh_one(
    desk: CodexDesk, fake: FakeOpenAI, how: str
) -> None:
    fake.script(Say("first"))
    desk.send("one", thread="talk")
    assert desk.run() == ["done"]
    lost = desk.session()
    if how == "its file is gone":
        desk.rollouts()[0].unlink()
    else:
        stranger = "01a1fd5a-88de-7e61-bb25-e0615cbe1a2c" if how == "nobody knows it" else "somebody"
        path = desk.state / "sessions.json"
        path.write_text(path.read_text().replace(lost, stranger))
    fake.script(Say("second"))
    sent = desk.send("two", thread="talk")
    assert desk.run() == ["session_lost"]
    assert desk.retry(sent).get("attempts", 0) == 0
    assert desk.run() == ["done"]
    assert desk.session() != lost
    assert len(fake.asked) == 2, "nothing was asked in a thread that codex began by itself"
    assert not (desk.state / "retries.json").exists() or not desk.retry(sent)


def test_a_usage_limit_pauses_until_its_reset_and_the_turn_goes_on_in_its_session(
    desk: CodexDesk, fake: FakeOpenAI
) -> None:
    back = time.time() + 3661
    fake.script(READ, usage_limit(back))
    sent = desk.send("long work")
    with desk.watching():
        until(lambda: desk.log(EventName.PAUSED), "the pause")
        [ended] = desk.log(EventName.TURN_ENDED)
        assert ended["outcome"] == "limited"
        assert "usage limit" in ended["detail"]
        assert desk.retry(sent).get("attempts", 0) == 0
        pause = json.loads((desk.state / "pause.json").read_text())
        assert int(back) <= pause["until"] <= back + 6, "the exact moment, from the session's file"
        fake.script(READ, reply("the answer"), Say("finished"))
        desk.cli("resume")
        until(lambda: len(desk.log(EventName.TURN_SETTLED)) == 2, "the second turn")
    assert desk.log(EventName.TURN_ENDED)[1]["outcome"] == "done"
    assert len(desk.rollouts()) == 1
    assert desk.session() in desk.rollouts()[0].name
    assert desk.answered() == ["the answer"]


def test_a_refused_key_signs_the_account_out(desk: CodexDesk, fake: FakeOpenAI) -> None:
    fake.script(refusal(401, "invalid_api_key", "Incorrect API key provided"))
    sent = desk.send()
    assert desk.run() == ["signed_out"]
    assert "401" in desk.detail()
    assert desk.retry(sent).get("attempts", 0) == 0


def test_an_unreachable_provider_is_given_up_in_seconds(desk: CodexDesk) -> None:
    desk.configure(extra_args=provider_arguments(f"http://127.0.0.1:{closed_port()}/v1"))
    sent = desk.send()
    started = time.monotonic()
    assert desk.run() == ["unavailable"]
    assert time.monotonic() - started < SOON
    assert "Connection failed" in desk.detail()
    assert desk.retry(sent).get("attempts", 0) == 0


def test_silence_of_the_model_ends_the_turn_and_its_processes(desk: CodexDesk, fake: FakeOpenAI) -> None:
    desk.configure(silence_timeout=2)
    fake.script(READ, Silence())
    sent = desk.send()
    started = time.monotonic()
    assert desk.run() == ["unavailable"]
    assert time.monotonic() - started < SOON
    assert desk.alive() == []
    assert desk.retry(sent).get("attempts", 0) == 0


def test_a_quiet_tool_is_left_alone(desk: CodexDesk, fake: FakeOpenAI) -> None:
    desk.configure(silence_timeout=1)
    fake.script(Shell("sleep 3.5; echo slept > slept"), reply("rested"), Say("finished"))
    desk.send()
    assert desk.run() == ["done"]
    assert (desk.workdir / "slept").exists()


def test_a_turn_survives_its_watcher_and_runs_once(desk: CodexDesk, fake: FakeOpenAI) -> None:
    started, go = desk.workdir / "started", desk.workdir / "go"
    wait = f"touch {started}; while [ ! -e {go} ]; do sleep 0.05; done; echo went on"
    fake.script(READ, Shell(wait), reply("the answer"), Say("finished"))
    desk.send("a mail")
    with desk.watching() as watcher:
        until(started.exists, "the tool's start")
        watcher.kill()
        watcher.wait()
        assert desk.alive()
        with desk.watching():
            until(lambda: desk.log(EventName.TURN_ADOPTED), "the adoption")
            go.touch()
            until(lambda: desk.log(EventName.TURN_SETTLED), "the settlement")
    assert len(desk.log(EventName.TURN_STARTED)) == 1
    assert desk.log(EventName.TURN_ENDED)[0]["outcome"] == "done"
    assert len(fake.asked) == 4
    assert desk.answered() == ["the answer"]
    assert desk.alive() == []


def test_a_stopped_watcher_ends_codex_and_its_tools(desk: CodexDesk, fake: FakeOpenAI) -> None:
    desk.configure(stop_grace=0, permission_mode="bypassPermissions")
    started = desk.workdir / "started"
    fake.script(READ, Shell(f"setsid sleep 600 & touch {started}; sleep 600; echo"))
    sent = desk.send()
    with desk.watching() as watcher:
        until(started.exists, "the tool's start")
        watcher.terminate()
        assert watcher.wait(30) == 0
    assert desk.alive() == []
    [ended] = desk.log(EventName.TURN_ENDED)
    assert ended["outcome"] == "interrupted"
    fake.script(Say("finished"))
    assert desk.run() == ["done"]
    assert len(desk.rollouts()) == 1, "the rerun went on in the session of the stopped turn"
    assert any("aborted" in text for text in fake.texts(-1))
    assert not desk.retry(sent)
