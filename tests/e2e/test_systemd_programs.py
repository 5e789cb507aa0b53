"""The real claude and codex work in the service: what the unit holds back, they do not need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.e2e.claude_desk import READ, ClaudeDesk, bash, reply
from tests.e2e.codex_desk import KEY, CodexDesk
from tests.e2e.fake_anthropic import FakeAnthropic, Text
from tests.e2e.fake_openai import Mail, Say, Shell, fake_openai
from tests.service_desk import Service
from tests.sizes import LONG
from tests.user_manager import UserManager, user_manager

from agent_mailer.events import EventName

pytestmark = LONG

HELD_BACK = "grep -e NoNewPrivs -e ^Seccomp: /proc/self/status > held.txt"


@pytest.fixture(scope="module")
def manager() -> Iterator[UserManager]:
    with user_manager() as found:
        yield found


def one_turn(manager: UserManager, desk: Desk, variables: Mapping[str, str]) -> None:
    """The service does one mail: the agent reads, uses its shell, answers; and was held back all the while."""
    service = Service(manager, desk.base.name, desk)
    scratch = desk.base / "tmp"
    scratch.mkdir(exist_ok=True)
    settings = {**variables, "TMPDIR": str(scratch), "CLAUDE_CODE_TMPDIR": str(scratch)}
    service.settings(*(f'Environment="{name}={value}"' for name, value in settings.items()))
    try:
        service.start()
        desk.send("what is seven times six?")
        until(lambda: desk.log(EventName.TURN_SETTLED), "the turn is settled")
    finally:
        service.end()
    assert desk.log(EventName.TURN_ENDED)[0]["outcome"] == "done", desk.log(EventName.TURN_ENDED)
    assert [message.body.strip() for message in desk.inbox()] == ["forty-two"]
    assert (desk.workdir / "held.txt").read_text().split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]


def made(manager: UserManager, name: str) -> Path:
    base = manager.base / name
    base.mkdir()
    return base


def test_claude_works_in_the_service(manager: UserManager) -> None:
    with FakeAnthropic() as fake:
        desk = ClaudeDesk(made(manager, "claude"), fake)
        desk.configure(extra_args=["--allowedTools", "Bash"])
        fake.says(READ, bash(HELD_BACK), reply("forty-two"), Text("I answered."))
        one_turn(manager, desk, desk.keys)


def test_codex_and_its_sandbox_work_in_the_service(manager: UserManager) -> None:
    with fake_openai() as fake:
        desk = CodexDesk(made(manager, "codex"), fake)
        fake.script(Mail("read_message"), Shell(HELD_BACK), Mail("reply", {"body": "forty-two"}), Say("finished"))
        one_turn(manager, desk, {"OPENAI_API_KEY": KEY})
