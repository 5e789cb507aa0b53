"""The guards around the real programs: a loop of two, and what a turn's helpers spend."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.desk import until
from tests.e2e.claude_desk import DONE, ClaudeDesk, reply
from tests.e2e.codex_desk import CodexDesk
from tests.e2e.fake_anthropic import FakeAnthropic, Text, Tool
from tests.e2e.fake_openai import Mail, Say, fake_openai
from tests.sizes import LONG

from agent_mailer.disk import Disk
from agent_mailer.mailbox.maildir.layout import make_root
from agent_mailer.state.held import Guard

pytestmark = LONG
ROUNDS = 40
FOR_ALL = 600.0
"""Seconds: some twenty turns of real programs, on a machine that has other work."""


@pytest.mark.parametrize("killed", [False, True], ids=["at rest", "killed meanwhile"])
def test_claude_and_codex_that_always_answer_each_other_are_stopped(tmp_path: Path, killed: bool) -> None:
    with FakeAnthropic() as anthropic, fake_openai() as openai:
        told = tmp_path / "told"
        notify = {"command": ["/bin/sh", "-c", f'echo "$AGENT_MAILER_NOTICE_TEXT" >>{told}']}
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        coder, reviewer = ClaudeDesk(tmp_path / "a", anthropic), CodexDesk(tmp_path / "b", openai)
        make_root(Disk(), coder.root, ["coder", "reviewer", "user"])
        coder.configure(auto_reply="never", notify=notify, max_retries=50, max_starts=100)
        reviewer.configure(address="reviewer", maildir_root=str(coder.root), notify=notify)
        for number in range(ROUNDS):
            anthropic.says(reply(f"coder's word {number}"), DONE)
        openai.script(*(step for n in range(ROUNDS) for step in (Mail("reply", {"body": f"{n}th word"}), Say("done"))))
        desks = (coder, reviewer)

        def held() -> list[Guard]:
            return [guard for desk in desks for guard in desk.place().state.held.waiting.values()]

        def stopped() -> object:
            return held() and told.exists() and told.read_text()

        def turns() -> int:
            return sum(len(desk.place().state.turns.ids()) for desk in desks)

        coder.send(sender="reviewer", thread="loop", body="begin")
        if killed:
            with reviewer.watching():
                for number in (2, 5, 9):
                    watcher = coder.start_watch()
                    until(lambda least=number: held() or turns() >= least, "some turns")  # type: ignore[misc]
                    watcher.kill()
                    watcher.wait()
                with coder.watching():
                    until(stopped, "the loop is stopped, and the operator asked", FOR_ALL)
        else:
            with coder.watching(), reviewer.watching():
                until(stopped, "the loop is stopped, and the operator asked", FOR_ALL)
        assert held() == [Guard.PAIR]
        assert turns() <= 18 + (4 if killed else 0)
        # The operator's command that is killed with its watcher is run again.
        assert len({line for line in told.read_text().splitlines() if "go on, or stop?" in line}) == 1
        mine = coder.send("another thread", thread="mine")
        assert coder.run() == ["done"]
        assert mine in coder.place().state.processed


def test_what_a_helper_of_claudes_spends_is_its_turns(tmp_path: Path) -> None:
    with FakeAnthropic() as anthropic:
        desk = ClaudeDesk(tmp_path, anthropic)
        desk.configure(limits={"tokens_per_day": 1_000_000})
        spent = []
        helper = Tool("Agent", {"description": "help", "prompt": "say hello", "subagent_type": "general-purpose"})
        stories: list[list[Text | Tool]] = [[DONE], [helper, Text("hello"), DONE]]
        for number, steps in enumerate(stories):
            anthropic.says(*steps)
            before = len(anthropic.requests)
            desk.send(thread=f"t{number}")
            assert desk.run() == ["done"]
            settlement = desk.place().state.turns.load(desk.record()["turn_id"]).settlement  # type: ignore[union-attr]
            assert settlement is not None
            assert settlement.usage is not None
            spent.append(
                (len(anthropic.requests) - before, settlement.usage.input_tokens + settlement.usage.output_tokens)
            )
        assert spent[1][0] >= spent[0][0] + 2, "the helper asked the model, too"
        assert spent[1][1] >= 3 * spent[0][1], spent
