"""The board with keys: what is typed goes to what was shown, whatever has moved on the board meanwhile."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.desk import PATIENCE, Desk
from textual.pilot import Pilot

from agent_mailer.cli.status.keys import _Screen
from agent_mailer.state.notices import Question
from agent_mailer.views.board import Board

ASKED_FIRST = 1_790_000_000.0


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command of this installation writes down the words that it was called with, one a line."""
    program = tmp_path / "bin" / "agent-mailer"
    program.parent.mkdir()
    program.write_text("""#!/bin/sh\nprintf '%s\\n' "$@" >"$0.new" && mv "$0.new" "$0.said"\n""")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    return program.with_name("agent-mailer.said")


def taken(said: Path) -> list[str]:
    """The words of the last call; the next is waited for anew."""
    words = said.read_text().splitlines()
    said.unlink()
    return words


def asks(desk: Desk, thread: str, text: str) -> None:
    question = Question(thread, f"of-{thread}", "turn-1", "user", ASKED_FIRST, text)
    (desk.state / "questions.json").write_bytes(msgspec.json.encode([question]))


async def becomes(pilot: Pilot[None], what: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not what():
            await pilot.pause(0.01)


async def seen(pilot: Pilot[None], screen: _Screen, *questions: str) -> None:
    """The board has looked, and shows these."""

    def shown() -> list[str]:
        return [need.why for need in screen._shown.needs if need.thread] if screen._shown is not None else []

    screen._look()
    await becomes(pilot, lambda: shown() == [*questions])


def test_an_answer_goes_to_the_question_that_was_shown_though_another_comes_first_by_then(
    tmp_path: Path, said: Path
) -> None:
    first, second = Desk(tmp_path / "first"), Desk(tmp_path / "second")
    asks(second, "paint", "Which colour?")
    screen = _Screen(Board([first.workdir, second.workdir]))

    async def scenario() -> None:
        async with screen.run_test() as pilot:
            await seen(pilot, screen, "Which colour?")
            await pilot.press("r")
            asks(first, "release", "Shall I delete the old tags?")
            await seen(pilot, screen, "Shall I delete the old tags?", "Which colour?")
            await pilot.press(*"yes", "enter")
            await becomes(pilot, said.exists)

    asyncio.run(scenario())
    words = ["send", "-C", str(second.workdir), "--to", "coder", "--thread", "paint", "--body", "yes"]
    assert said.read_text().splitlines() == words


def test_a_key_is_for_the_agent_that_was_chosen_though_others_come_and_go_before_it(tmp_path: Path, said: Path) -> None:
    first, second, third = (Desk(tmp_path / name) for name in ("first", "second", "third"))
    shown = [second.workdir, third.workdir]
    screen = _Screen(Board(shown))

    def agents() -> list[str]:
        return [view.workdir for view in screen._shown.workdirs] if screen._shown is not None else []

    async def comes(pilot: Pilot[None], *desks: Desk) -> None:
        screen._look()
        await becomes(pilot, lambda: agents() == [str(desk.workdir) for desk in desks])

    async def scenario() -> None:
        async with screen.run_test() as pilot:
            await comes(pilot, second, third)
            await pilot.press("down")
            for desks in ((first, second, third), (third, first, second), (third, second), (second, third)):
                shown[:] = [desk.workdir for desk in desks]
                await comes(pilot, *desks)
                await pilot.press("p")
                await becomes(pilot, said.exists)
                assert taken(said) == ["pause", "-C", str(third.workdir)]

    asyncio.run(scenario())
