"""A command that mends something, said for a folder."""

from __future__ import annotations

import pytest

from agent_mailer.errors import said_of


@pytest.mark.parametrize(
    ("fix", "wanted"),
    [
        ("agent-mailer config edit", "agent-mailer config edit -C /a"),
        ("agent-mailer config set runtime command", "agent-mailer config set runtime command -C /a"),
        ("agent-mailer init, or give the flags", "agent-mailer init -C /a, or give the flags"),
        ("agent-mailer init --command 'A B' --agent x", "agent-mailer init --command 'A B' --agent x -C /a"),
        ("agent-mailer watch, then wait", "agent-mailer watch -C /a, then wait"),
        ("claude auth login, then agent-mailer resume", "claude auth login, then agent-mailer resume -C /a"),
        ("install x, or: agent-mailer config set a ...", "install x, or: agent-mailer config set a ... -C /a"),
        ("agent-mailer doctor -C /b", "agent-mailer doctor -C /b"),
        ("agent-mailer status --all", "agent-mailer status --all"),
        ("agent-mailer cost --by day --all", "agent-mailer cost --by day --all"),
        ("agent-mailer approvals list --all", "agent-mailer approvals list --all -C /a"),
        ("agent-mailer mail inbox --all", "agent-mailer mail inbox --all -C /a"),
        ("agent-mailer --help", "agent-mailer --help"),
        ("agent-mailer broker serve", "agent-mailer broker serve"),
        ("chmod 700 /a/.agent-mailer", "chmod 700 /a/.agent-mailer"),
        ("", ""),
    ],
)  # fmt: skip
def test_only_a_command_about_one_folder_gets_its_name(fix: str, wanted: str) -> None:
    assert said_of(fix, "/a") == wanted
    assert said_of(fix, "") == fix


def test_a_folder_with_a_blank_is_quoted() -> None:
    assert said_of("agent-mailer resume", "/my agents/a") == "agent-mailer resume -C '/my agents/a'"
