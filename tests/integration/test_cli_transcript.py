"""A turn replayed, and watched while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.typed import type_in

from agent_mailer.events import EventName


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_turn_is_replayed_in_the_order_in_which_things_happened(desk: Desk) -> None:
    desk.configure(command_output="jsonl")
    desk.script(
        {"emit": {"type": "session", "id": "s-1"}},
        {"emit": {"type": "progress", "text": "reading\x1b[31m the mail"}},
        {"emit": {"type": "tool_start", "id": "1", "name": "Bash", "detail": "make test"}},
        {"print": "not an event"},
        {"emit": {"type": "tool_end", "id": "1"}},
        {"emit": {"type": "usage", "input_tokens": 1200, "output_tokens": 300, "cost_usd": 0.00004}},
        {"error": "a warning"},
        {"emit": {"type": "result", "outcome": "done", "text": "first line\nsecond line"}},
    )
    desk.send()
    desk.once()
    [turn] = desk.place().state.turns.ids()
    shown = type_in(desk.workdir, "turns", "show", turn).out
    _, _, replay = shown.partition("\n\n")
    assert replay.splitlines() == [
        "reading\\x1b[31m the mail",
        "> Bash make test",
        "  [1200 tokens in, 300 out, <$0.0001]",
        "= done",
        "first line",
        "second line",
        "stderr:",
        "  a warning",
    ]
    # Another runtime now: the output is shown as it was printed.
    desk.configure(runtime="codex")
    assert "not an event" in type_in(desk.workdir, "turns", "show", turn).out


def test_status_tells_what_a_running_turn_does_and_the_log_tells_no_words_of_it(desk: Desk) -> None:
    go = desk.base / "go"
    desk.configure(command_output="jsonl")
    desk.script(
        {"emit": {"type": "progress", "text": "the secret plan"}},
        {"emit": {"type": "usage", "input_tokens": 7, "output_tokens": 3}},
        {"emit": {"type": "tool_start", "id": "1", "name": "Edit", "detail": "main.py"}},
        {"wait_for": str(go)},
        {"emit": {"type": "result", "outcome": "done", "text": "ok"}},
    )
    desk.send()
    with desk.watching():
        until(lambda: list((desk.state / "turns").glob("*/progress.json")), "the progress")
        [running] = type_in(desk.workdir, "status", "--json").json["running"]
        assert (running["tool"], running["doing"], running["tokens"]) == ("Edit main.py", "the secret plan", 10)
        assert "Edit main.py for" in type_in(desk.workdir, "status").out
        go.touch()
        until(lambda: desk.log(EventName.TURN_SETTLED), "the end")
    written = (desk.state / "log.jsonl").read_text()
    assert ("secret" in written, "main.py" in written) == (False, False)
    assert not list((desk.state / "turns").glob("*/progress.json"))
