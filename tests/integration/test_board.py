"""The board: mail between agents as it leaves, what needs a person; on a terminal a question is answered by a key."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.sizes import LONG
from tests.terminal import terminal
from tests.typed import COMMAND

from agent_mailer.cli.terminal.screen import cells
from agent_mailer.disk import Disk
from agent_mailer.state.workdirs import known_workdirs
from agent_mailer.views.board import Board
from agent_mailer.views.values.needs import BoardView, NeedKind

ASK = 'agent-mailer mail read | grep -q "please" && agent-mailer mail finish --blocked "Which colour?"; echo done'


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    found.shell(f"cat >/dev/null; PATH={Path(COMMAND).parent}:$PATH; {ASK}")
    return found


def moved(board: BoardView) -> list[tuple[str, str]]:
    return [(one.sender, one.to) for one in board.mail]


def test_mail_is_shown_once_and_a_question_needs_a_person_until_it_is_answered(desk: Desk) -> None:
    board = Board([desk.workdir])
    try:
        assert [need.why for need in board.look().needs] == ["no watcher runs"]
        desk.send("please")
        desk.once()
        found = board.look()
        assert moved(found) == [("user", "coder"), ("coder", "user")]
        [question] = [need for need in found.needs if need.kind is NeedKind.QUESTION]
        assert (question.address, question.asked, question.why) == ("coder", "user", "Which colour?")
        desk.send("blue", thread=question.thread)
        desk.once()
        found = board.look()
        # What was there before is not told again, and its thread stands beside each.
        assert moved(found) == [("user", "coder"), ("coder", "user")] * 2
        assert {one.thread for one in found.mail} == {question.thread}
        assert not [need for need in found.needs if need.kind is NeedKind.QUESTION]
        assert found.turns == 2
    finally:
        board.close()


def test_a_workdir_that_is_gone_is_told_and_the_others_are_shown(desk: Desk, tmp_path: Path) -> None:
    board = Board([tmp_path / "gone", desk.workdir])
    try:
        found = board.look()
        assert (len(found.workdirs), found.healthy) == (2, False)
        assert {need.address for need in found.needs} == {"gone", "coder"}
    finally:
        board.close()


@LONG
@pytest.mark.parametrize("width", [80, 200])
def test_a_question_is_answered_by_a_key(desk: Desk, width: int) -> None:
    with (
        desk.watching(),
        terminal([COMMAND, "status", "--all", "--watch"], desk.base, width=width, height=30) as window,
    ):
        desk.send("please")
        screen = window.until("coder → user", "Which colour?", "1 needs you")
        assert all(cells(line) <= width for line in screen.splitlines())
        window.press("r")
        window.until("the answer; Enter sends it")
        window.type("blue")
        window.until("nothing needs you")
        until(lambda: desk.answered()[-1:] == ["done"], "the answer to the answer")
        window.press("t")
        # The story of the thread at which it worked last, on the terminal itself.
        window.until("asks: Which colour?", "2 turns", "Enter goes back")
        window.press("Enter")
        window.until("nothing needs you", "MAIL")
        window.press("p")
        window.until("paused")
        window.press("q")
        assert window.until_ended() == 0


@LONG
def test_with_many_needs_a_low_terminal_still_shows_mail(desk: Desk, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"gone-{number}" / ".agent-mailer").mkdir(parents=True)
        (tmp_path / f"gone-{number}" / ".agent-mailer" / "config.toml").write_text("garbage = [")
        known_workdirs(Disk()).remember(tmp_path / f"gone-{number}")
    words = [COMMAND, "status", "--all", "--watch"]
    with desk.watching(), terminal(words, desk.base, width=40, height=10) as window:
        desk.send("please")
        low = window.until("gone-0", "more (agent-mailer status --all)", "coder → user")
        assert "NEEDS YOU" not in low
        window.resize(80, 24)
        window.until("NEEDS YOU", "gone-0:", "more (agent-mailer status --all)", "MAIL", "coder → user")
        window.press("q")
        assert window.until_ended() == 0


@LONG
def test_without_a_terminal_it_is_lines(desk: Desk) -> None:
    with desk.watching():
        words = [COMMAND, "status", "--all", "--watch"]
        with subprocess.Popen([*words, "--json"], stdout=subprocess.PIPE, cwd=desk.base) as process:
            assert process.stdout is not None
            try:
                assert json.loads(process.stdout.readline())["mail"] == []
                desk.send("nothing to ask")
                for line in process.stdout:
                    board = json.loads(line)
                    if len(board["mail"]) == 2:
                        break
                assert [(one["from"], one["to"]) for one in board["mail"]] == [("user", "coder"), ("coder", "user")]
            finally:
                process.terminate()
        with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=desk.base, text=True) as process:
            assert process.stdout is not None
            try:
                until(lambda: "user → coder" in process.stdout.readline(), "the board")  # type: ignore[union-attr]
                desk.send("please")
                until(lambda: "NEEDS YOU  coder: asks user" in process.stdout.readline(), "what is new")  # type: ignore[union-attr]
            finally:
                process.terminate()


PUSH = r"""say() { printf '%s\n' "$1"; }; cat >/dev/null
told=$(grep -o '"id":"q-[0-9a-f]*"' "$AGENT_MAILER_APPROVALS" 2>/dev/null | cut -d'"' -f4)
[ "$told" ] || { say '{"type":"result","outcome":"asked","tool":"Bash","input":{"command":"git push"}}'; exit 0; }
grep -q '"word":"allow"' "$AGENT_MAILER_APPROVALS" || { say '{"type":"result","text":"not pushed"}'; exit 0; }
echo pushed >>"$AGENT_MAILER_WORKDIR/../acts"
say '{"type":"result","text":"pushed"}'"""


@LONG
@pytest.mark.parametrize(("key", "verb", "ends"), [("a", "approve", "pushed"), ("d", "deny", "not pushed")])
def test_what_an_agent_asks_for_is_read_whole_then_allowed_or_denied_by_a_key(
    desk: Desk, key: str, verb: str, ends: str
) -> None:
    desk.shell(PUSH)
    desk.configure(command_output="jsonl")
    with desk.watching(), terminal([COMMAND, "status", "--all", "--watch"], desk.base, width=120, height=30) as window:
        window.until("nothing needs you")
        window.press(key)
        window.until("nobody asks for anything")
        desk.send("please")
        window.until("1 needs you", "(a, d)")
        window.press(key)
        # It is read whole before it is decided, and may be left as it is.
        window.until("git push", f"Enter: {verb}; Ctrl-C: leave it")
        window.press("C-c")
        window.until("1 needs you", "(a, d)")
        assert not desk.answered()
        window.press(key)
        window.until("git push", f"Enter: {verb}; Ctrl-C: leave it")
        window.press("Enter")
        window.until("Enter goes back")
        window.press("Enter")
        window.until("nothing needs you")
        until(lambda: desk.answered() == [ends], "its end")
        window.press("q")
        assert window.until_ended() == 0
    assert (desk.base / "acts").exists() == (key == "a")
