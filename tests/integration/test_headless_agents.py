"""Turns of agents that are described by the lines of their headless mode: real processes, a script as the agent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.desk import Desk, outcomes, until
from tests.sizes import LONG

from agent_mailer.events import EventName
from agent_mailer.state.requests import Request, Verb

DESCRIPTOR = """\
argv = ["/bin/sh", {script}]
title = "Scripted"
silent_for = {silent}
leaves_in = 0.2
mail = "commands"
usage = "prompt"
[modes.plan]
[headless]
resume = ["--resume", "$session"]
[[headless.lines]]
when = {{ type = "init" }}
session = "id"
[[headless.lines]]
when = {{ type = "says" }}
text = "text"
[[headless.lines]]
when = {{ type = "over" }}
input_tokens = "tokens"
output_tokens = "none"
ends = true
[[errors]]
code = 42
outcome = "session_lost"
"""
SESSION = "11111111-1111-4111-8111-111111111111"
BEGINS = f"""cat >"$0.prompt"; echo "$*" >>"$0.words"; echo '{{"type":"init","id":"{SESSION}"}}'; """
ENDS = """echo '{"type":"says","text":"The answer."}'; echo '{"type":"over","tokens":7}'"""


class HeadlessDesk(Desk):
    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.agent = base / "agent.sh"
        self.describe()
        self.configure(runtime="acp", agent="fake")

    def describe(self, silent: int = 60) -> None:
        folder = self.state / "templates" / "agents"
        folder.mkdir(parents=True, exist_ok=True)
        text = DESCRIPTOR.format(script=json.dumps(str(self.agent)), silent=silent)
        (folder / "fake.toml").write_text(text)

    def does(self, script: str) -> None:
        self.agent.write_text(script)


@pytest.fixture
def desk(tmp_path: Path) -> HeadlessDesk:
    return HeadlessDesk(tmp_path)


def test_two_mails_of_a_thread_are_one_session_and_a_lost_one_is_followed_by_a_new_one(desk: HeadlessDesk) -> None:
    desk.does(BEGINS + ENDS)
    for _ in range(2):
        desk.send(thread="t")
        assert outcomes(desk.once()) == ["done"]
    assert desk.answered() == ["The answer."] * 2
    assert "agent-mailer mail finish" in Path(f"{desk.agent}.prompt").read_text()
    words = Path(f"{desk.agent}.words")
    assert words.read_text().splitlines() == ["", f"--resume {SESSION}"]
    desk.does(f'{BEGINS} [ -n "$1" ] && exit 42; {ENDS}')
    desk.send(thread="t")
    assert [*outcomes(desk.once()), *outcomes(desk.once())] == ["session_lost", "done"]
    assert words.read_text().splitlines()[-1] == ""


@LONG
def test_silence_is_an_outage_and_a_stop_ends_it(desk: HeadlessDesk) -> None:
    desk.does(f"{BEGINS} exec sleep 600")
    desk.describe(silent=1)
    desk.configure()
    desk.send()
    assert outcomes(desk.once()) == ["unavailable"]
    desk.describe()
    desk.configure()
    desk.resume()
    with desk.watching():
        until(lambda: len(desk.log(EventName.TURN_STARTED)) == 2, "its second turn")
        turn_id = desk.log(EventName.TURN_STARTED)[-1]["turn_id"]
        until(lambda: len(Path(f"{desk.agent}.words").read_text().splitlines()) == 2, "the agent runs")
        desk.does(BEGINS + ENDS)
        desk.place().state.requests.submit(Request(Verb.TURNS_STOP, (turn_id,)))
        until(desk.answered, "the turn after the one that was stopped")
    ended = [row["outcome"] for row in desk.log(EventName.TURN_ENDED)]
    assert ended == ["unavailable", "interrupted", "done"]


@LONG
def test_an_agent_that_ends_without_its_last_line_has_not_answered(desk: HeadlessDesk) -> None:
    desk.configure(max_retries=0)
    desk.does(f"""{BEGINS} echo '{{"type":"says","text":"half of an"}}'; exit 0""")
    desk.send()
    assert outcomes(desk.once()) == ["failed"]
    assert not any("half of an" in body for body in desk.answered())
