"""A session that nobody touches for long: what has become of its doorbell, in the real claude and codex.

Claude ends a hook when its time is up. The plugin's has a week; here it is also seen with seconds.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.desk import until
from tests.e2e.fake_anthropic import FakeAnthropic, Text, Tool
from tests.e2e.fake_openai import Say, fake_openai
from tests.e2e.live_home import at_claude, at_codex, claude_home, codex_home, submit
from tests.sizes import LONG, SOAK

IDLE = 31 * 60.0
"""Seconds: longer than half an hour, and three times what a hook of claude's has by itself."""
SHORT = 4
"""Seconds that a hook gets here, where claude is to end it."""


def shorten_the_hooks(home: Path) -> None:
    """The time of what waits beside the session, in the plugin that is installed."""
    (hooks,) = home.glob(".local/share/agent-mailer/plugins/claude/**/hooks/hooks.json")
    told = json.loads(hooks.read_text())
    for moment in ("SessionStart", "Stop"):
        for entry in told["hooks"][moment]:
            for hook in entry["hooks"]:
                assert hook["timeout"] > IDLE
                hook["timeout"] = SHORT
    hooks.write_text(json.dumps(told))


@LONG
def test_a_hook_whose_time_is_up_says_nothing_and_the_next_turn_puts_up_another(tmp_path: Path) -> None:
    with FakeAnthropic() as fake:
        home = claude_home(tmp_path, fake)
        home.plugin("install", "claude")
        shorten_the_hooks(home.home)
        with at_claude(home) as screen:
            until(lambda: not home.listeners(), "claude ends the hook")
            missed = home.agent_writes("while nobody listened")
            fake.says(Text("seen"))
            submit(screen, "hello")
            screen.until("seen")
            # No turn of its own has come of the end; what came meanwhile stands beside the prompt.
            assert missed in json.dumps(fake.requests[0].body["messages"])
            assert "hello" in json.dumps(fake.requests[0].body["messages"])
            home.until_somebody_listens()
            before = len(fake.requests)
            fake.says(Text("heard"))
            second = home.agent_writes("and now?")
            screen.until("heard")
            assert second in fake.requests[before].prompts[-1]
            assert missed not in fake.requests[before].prompts[-1]


@SOAK
def test_claude_is_woken_after_half_an_hour_in_which_nobody_touched_it(tmp_path: Path) -> None:
    with FakeAnthropic() as fake:
        home = claude_home(tmp_path, fake)
        home.plugin("install", "claude")
        with at_claude(home) as screen:
            listeners = home.listeners()
            time.sleep(IDLE)  # this is what is tried
            assert (home.listeners(), fake.requests) == (listeners, [])
            fake.says(Tool("mcp__plugin_mailer_mail__inbox", {}), Text("looked"))
            ours = home.agent_writes("are you still there?")
            screen.until("looked")
            assert ours in fake.requests[0].prompts[-1]
            assert "still there" in fake.requests[1].tool_results[0] or ours in fake.requests[1].tool_results[0]
            home.until_somebody_listens()


@SOAK
def test_codex_is_woken_after_half_an_hour_in_which_nobody_touched_it(tmp_path: Path) -> None:
    with fake_openai() as fake:
        home = codex_home(tmp_path, fake)
        home.plugin("install", "codex")
        with at_codex(home) as screen:
            fake.script(Say("good morning"))
            submit(screen, "hello")
            home.until_somebody_listens()
            screen.until("good morning")
            listeners, before = home.listeners(), len(fake.asked)
            time.sleep(IDLE)  # this is what is tried
            assert (home.listeners(), len(fake.asked)) == (listeners, before)
            fake.script(Say("looked"))
            ours = home.agent_writes("are you still there?")
            screen.until("looked")
            assert ours in fake.texts(before)[-1]
