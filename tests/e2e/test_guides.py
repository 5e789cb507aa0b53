"""The README and the guides in docs/, followed as the tutorials are."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.desk import until
from tests.e2e.fake_anthropic import Answer, Failure, FakeAnthropic, Text, usage_limit
from tests.e2e.fake_openai import closed_port
from tests.e2e.newcomer import (
    DOCS,
    DONE,
    HAIKU,
    READ,
    answer_has_come,
    claude_with_its_provider,
    follow,
    log_in_to_claude,
    newcomer,
    reply,
    set_up,
    write_to_it,
)
from tests.e2e.walker import Block, Stage, Walk, blocks
from tests.pages import PROJECT, page
from tests.sizes import LONG

pytestmark = LONG

CURL = """\
#!/usr/bin/env python3
import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[-1], sys.stdin.buffer.read()))
"""


@pytest.fixture
def walk(home: Path, tmp_path: Path) -> Iterator[Walk]:
    with newcomer(home, tmp_path) as found:
        yield found


@pytest.fixture
def claude(walk: Walk) -> Iterator[FakeAnthropic]:
    with claude_with_its_provider(walk) as fake:
        yield fake


def test_the_readme(walk: Walk) -> None:
    follow(walk, "../README.md", {})


def test_recipes(walk: Walk) -> None:
    follow(walk, "recipes.md", {})


def test_any_program(walk: Walk) -> None:
    follow(walk, "any-program.md", {})


def test_several_agents(walk: Walk) -> None:
    def answers(count: int) -> Stage:
        def have_come(walk: Walk) -> None:
            new = walk.home / "projects/shop/.agent-mail/agents/user/inbox/new"
            until(lambda: len([*new.glob("*.md")]) == count, f"{count} answers")

        return have_come

    stages = {"two_answers_have_come": answers(2), "three_answers_have_come": answers(3)}
    follow(walk, "several-agents.md", {"answer_has_come": answer_has_come, **stages})


def test_work_from_outside(walk: Walk) -> None:
    follow(walk, "work-from-outside.md", {})


def test_when_something_is_wrong(walk: Walk, claude: FakeAnthropic) -> None:
    """One message meets one fault after the other."""
    state = walk.home / HAIKU / ".agent-mailer"
    limit, refusal = usage_limit(time.time() + 7000), Failure(403, "permission_error", "not allowed")

    def an_agent_works(walk: Walk) -> None:
        log_in_to_claude(claude.url, walk)
        set_up(walk, "--runtime", "claude", "--max-retries", "0")
        walk.terminal("watcher").type(f"cd ~/{HAIKU}\nagent-mailer watch\n", stays=True)

    def a_limit_is_met(walk: Walk) -> None:
        from_now_on(limit)(walk)
        write_to_it(walk)
        holds("pause.json", "limited")(walk)

    def from_now_on(answer: Answer) -> Stage:
        return lambda walk: setattr(claude, "default", answer)

    def holds(name: str, word: str) -> Stage:
        path = state / name
        return lambda walk: until(lambda: path.exists() and word in path.read_text(), f"{name} with {word}")

    stages = {
        "an_agent_works": an_agent_works,
        "a_limit_is_met": a_limit_is_met,
        "the_login_is_refused": from_now_on(refusal),
        "it_is_signed_out": holds("pause.json", "signed_out"),
        "the_turn_fails": from_now_on(Text("", stop="max_tokens")),
        "it_is_given_up": holds("dead_letter.jsonl", "failed"),
        "works_again": from_now_on(Text("It is done.")),
    }
    follow(walk, "when-something-is-wrong.md", stages)


def test_notices(walk: Walk) -> None:
    """Programs for the desktop and for mail are played by scripts that keep what they are told."""
    told: list[dict[str, str]] = []
    kept = walk.home / "kept"

    def an_agent_is_set_up(walk: Walk) -> None:
        set_up(walk, "--runtime", "command", "--command", "agent-mailer mail finish --blocked 'A or B?'")

    def the_agent_asks(walk: Walk) -> None:
        write_to_it(walk)
        walk.behind_the_scenes("watch", "--once", cwd=HAIKU)

    def the_programs_are_there(walk: Walk) -> None:
        scripts = {
            "notify-send": f"#!/bin/sh\nprintf '%s|' \"$@\" >> {kept}\n",
            "sendmail": f"#!/bin/sh\ncat >> {kept}\n",
        }
        if shutil.which("curl") is None:
            scripts["curl"] = CURL
        for name, script in scripts.items():
            program = walk.home / ".local/bin" / name
            program.write_text(script)
            program.chmod(0o755)

    with listening(told) as url:
        walk.same = {"https://hooks.example.org/agents": url}
        stages = {
            "an_agent_is_set_up": an_agent_is_set_up,
            "the_agent_asks": the_agent_asks,
            "the_programs_are_there": the_programs_are_there,
        }
        follow(walk, "notices.md", stages)
    whole, chat = told
    assert (whole["kind"], whole["agent"]) == ("test", "coder")
    assert chat["text"].startswith("coder can tell you")
    desktop, _, mail = kept.read_text().partition("To: ")
    assert desktop.startswith("--app-name=agent-mailer|coder|coder can tell you")
    assert "Subject: coder: test\n\ncoder can tell you" in mail


NOTES = """\
cat >/dev/null
sed -i 's/^## Facts$/&\\n- Rain falls in threes./' .agent-mailer/memory/global.md
echo noted
"""


def test_memory_and_prompts(walk: Walk) -> None:
    def an_agent_has_noted_something(walk: Walk) -> None:
        script = walk.home / "notes.sh"
        script.write_text(NOTES)
        set_up(walk, "--runtime", "command", "--command", f"sh {script}")
        walk.behind_the_scenes("config", "set", "permission_mode", "acceptEdits", cwd=HAIKU)
        write_to_it(walk)
        walk.behind_the_scenes("watch", "--once", cwd=HAIKU)

    follow(walk, "memory-and-prompts.md", {"an_agent_has_noted_something": an_agent_has_noted_something})
    assert "Rain" not in (walk.home / HAIKU / ".agent-mailer/memory/global.md").read_text()


def test_approvals(walk: Walk) -> None:
    done = walk.home / "done"

    def an_agent_is_set_up(walk: Walk) -> None:
        plan = {"acts": ["git push origin main"], "done": str(done), "use": ["agent-mailer", "approvals", "use"]}
        (walk.home / "plan.json").write_text(json.dumps(plan))
        program = f"{sys.executable} -m tests.asking_agent {walk.home}/plan.json"
        set_up(walk, "--runtime", "command", "--command", program)
        with (walk.home / HAIKU / ".agent-mailer/config.toml").open("a") as config:
            config.write(f'[env.set]\nPYTHONPATH = "{PROJECT}"\n')
        for words in (
            ("trust", "--yes"),
            ("set", "permission_mode", "acceptEdits"),
            ("set", "command_output", "jsonl"),
        ):
            walk.behind_the_scenes("config", *words, cwd=HAIKU)

    def the_agent_asks(walk: Walk) -> None:
        write_to_it(walk)
        # It ends with 1: the mail waits for an answer.
        walk.terminal("watcher").type(f"cd ~/{HAIKU}\nagent-mailer watch --once\n")

    follow(walk, "approvals.md", {"an_agent_is_set_up": an_agent_is_set_up, "the_agent_asks": the_agent_asks})
    walk.behind_the_scenes("watch", "--once", cwd=HAIKU)
    assert done.read_text() == "git push origin main\n"


def test_teams(home: Path, tmp_path: Path) -> None:
    """With the sandbox that this machine has: without one it would ask."""
    with newcomer(home, tmp_path, sandbox="") as walk, claude_with_its_provider(walk) as claude:
        _a_team_reports(walk, claude)


def _a_team_reports(walk: Walk, claude: FakeAnthropic) -> None:
    def a_project_and_a_login(walk: Walk) -> None:
        (walk.home / "shop").mkdir()
        log_in_to_claude(claude.url, walk)
        claude.says(READ, reply("It sorted the lines before the last one was read. Fixed, with a test."), DONE)

    try:
        follow(walk, "teams.md", {"a_project_and_a_login": a_project_and_a_login})
    finally:
        # Where the walk ended early they would go on.
        walk.behind_the_scenes("team", "stop", "--now", cwd="shop")


def test_operating_a_broker(walk: Walk) -> None:
    def for_a_moment(walk: Walk) -> None:
        walk.same = {"--seconds 5": "--seconds 1"}
        walk.same |= dict.fromkeys(re.findall(r"^\d.* ms$", page("docs/operating-a-broker.md"), re.MULTILINE), "…")

    follow(walk, "operating-a-broker.md", {"for_a_moment": for_a_moment})


def test_how_it_was_proved(walk: Walk) -> None:
    walk.same = {"--rounds 25": "--rounds 3", "25 kills, 19 messages": "3 kills, … messages"}
    follow(walk, "how-it-was-proved.md", {})


def test_the_console(walk: Walk) -> None:
    port = closed_port()
    walk.same = {"broker serve": f"broker serve --port {port}"}
    follow(walk, "console.md", {})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/console") as page:
        assert b"agent-mailer" in page.read()


def test_any_agent(walk: Walk) -> None:
    def none_is_here(walk: Walk) -> None:
        assert not any(shutil.which(name, path=walk.env["PATH"]) for name in ("gemini", "kimi", "opencode"))

    follow(walk, "any-agent.md", {"none_is_here": none_is_here})


def test_the_sandbox(home: Path, tmp_path: Path) -> None:
    """With the one that this machine has."""
    with newcomer(home, tmp_path, sandbox="") as walk:

        def an_agent_is_set_up(walk: Walk) -> None:
            set_up(walk, "--runtime", "command", "--command", "cat")

        follow(walk, "sandbox.md", {"an_agent_is_set_up": an_agent_is_set_up})


def test_schedules(walk: Walk) -> None:
    """The table is the page's own."""

    def the_table_is_written(walk: Walk) -> None:
        set_up(walk, "--runtime", "command", "--command", "cat")
        [table] = [block.text for block in blocks(page("docs/reference/schedules.md")) if block.language == "toml"]
        with (walk.home / HAIKU / ".agent-mailer" / "config.toml").open("a") as file:
            file.write(f"\n{table}")

    follow(walk, "reference/schedules.md", {"the_table_is_written": the_table_is_written})


REFERENCE = (
    "commands",
    "configuration",
    "events",
    "files",
    "folder",
    "guards",
    "history",
    "metrics",
    "reservations",
    "status",
    "tools",
)


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference(walk: Walk, name: str) -> None:
    """An agent that answers with its prompt has had one mail."""

    def an_agent_has_worked(walk: Walk) -> None:
        set_up(walk, "--runtime", "command", "--command", "cat")
        write_to_it(walk)
        walk.behind_the_scenes("watch", "--once", cwd=HAIKU)

    follow(walk, f"reference/{name}.md", {"an_agent_has_worked": an_agent_has_worked})


def test_each_command_of_the_documents_is_typed() -> None:
    """A page with commands is followed by a test, or says of each block why it is not typed."""
    followed = {
        name
        for file in Path(__file__).parent.glob("test_*.py")
        for name in re.findall(r'\bfollow\(walk, "([^"]+)"', file.read_text("utf-8"))
    }
    followed |= {f"reference/{name}.md" for name in REFERENCE}
    pages = [DOCS.parent / "README.md", *DOCS.glob("*.md"), *DOCS.glob("reference/*.md")]
    typed = {page for page in pages if any(_is_typed(block) for block in blocks(page.read_text("utf-8")))}
    assert {os.path.relpath(page, DOCS) for page in typed} == followed


def _is_typed(block: Block) -> bool:
    return block.language == "sh" and block.note("skip") is None


@contextmanager
def listening(told: list[dict[str, str]]) -> Iterator[str]:
    """A webhook on the loopback that keeps what it is told."""

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
