"""Whoever is asked at a terminal and says no, or only presses Return, has nothing done; who says yes has it done."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomlkit
import typer
from tests.desk import Desk
from tests.team_folder import team_in
from tests.typed import Terminal

from agent_mailer.cli.agent import remove
from agent_mailer.cli.config import trust
from agent_mailer.cli.team.making import _ask_for_mode
from agent_mailer.cli.team.running import rm
from agent_mailer.cli.trusting import ask_whether_trusted
from agent_mailer.disk import Disk
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.teams.kept import keep

Asked = tuple[Callable[[], object], Callable[[], bool]]
"""A command that asks, and whether it is done."""


def changed(base: Path) -> Desk:
    """An agent whose file was changed by nobody who was asked."""
    desk = Desk(base)
    desk.place().trust.remember()
    desk.settings["permission_mode"] = "bypassPermissions"
    (desk.state / "config.toml").write_text(tomlkit.dumps(desk.settings))
    return desk


def trust_to_start(base: Path) -> Asked:
    desk = changed(base)
    return lambda: ask_whether_trusted(desk.place()), lambda: not desk.place().trust.verdict.changed


def trust_it(base: Path) -> Asked:
    desk = changed(base)
    return lambda: trust(desk.workdir), lambda: not desk.place().trust.verdict.changed


def remove_the_agent(base: Path) -> Asked:
    desk = Desk(base)
    return lambda: remove(desk.workdir), lambda: not desk.state.exists()


def delete_the_team(base: Path) -> Asked:
    folder = team_in(base)
    keep(folder, Disk())
    return lambda: rm(directory=folder), lambda: not folder.exists()


def let_all_be_done(base: Path) -> Asked:
    del base
    modes: list[PermissionMode] = []
    return lambda: modes.append(_ask_for_mode("no sandbox")), lambda: PermissionMode.BYPASS_PERMISSIONS in modes


@pytest.mark.parametrize("typed", ["n", "", "y"])
@pytest.mark.parametrize("asks", [trust_to_start, trust_it, remove_the_agent, delete_the_team, let_all_be_done])
def test_only_a_yes_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: Callable[[Path], Asked], typed: str
) -> None:
    command, is_done = asks(tmp_path)
    assert not is_done()
    monkeypatch.setattr(sys, "stdin", Terminal(f"{typed}\n"))
    monkeypatch.setattr(sys, "stdout", Terminal())
    try:
        command()
    except (typer.Abort, typer.Exit):
        assert typed != "y"
    assert is_done() is (typed == "y")
