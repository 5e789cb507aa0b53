"""What an agent has made of a git folder may be much: the loop, by which other turns live, does not handle it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from tests.desk import Desk, outcomes
from tests.integration.test_confined import runs_here

from agent_mailer.disk import SystemCalls


class Watched(SystemCalls):
    """`seen` has each change of a name with `part` in it: whether the loop itself made it."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts
        self.seen: dict[str, set[bool]] = {part: set() for part in parts}

    def _note(self, path: Path) -> None:
        on_loop = False
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            on_loop = True
        for part in self._parts:
            if part in str(path):
                self.seen[part].add(on_loop)

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        if flags & os.O_CREAT:
            self._note(path)
        return super().open(path, flags, mode)

    def unlink(self, path: Path) -> None:
        self._note(path)
        super().unlink(path)

    def replace(self, source: Path, target: Path) -> None:
        self._note(target)
        super().replace(source, target)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_stands_in_a_git_folder_for_a_turn_comes_and_goes_beside_the_loop(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENT_MAILER_SANDBOX")
    subprocess.run(["git", "init", "-q", str(desk.workdir)], check=True)
    desk.configure(permission_mode="acceptEdits", sandbox={"kind": runs_here("bwrap")})
    desk.shell("cat >/dev/null; test -f .git/commondir")
    system = Watched(".git/commondir")
    desk.send()
    assert outcomes(desk.once(system=system)) == ["done"]
    assert system.seen == {".git/commondir": {False}}
    assert not (desk.workdir / ".git" / "commondir").exists()
