"""Whoever reads a command's output may go: what it was told to do is done all the same."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.sizes import LONG
from tests.typed import COMMAND, type_in

from agent_mailer.assemble import Workplace


def unread(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command with nobody at the other end of its standard output."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            [COMMAND, *words], cwd=cwd, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    finally:
        os.close(writing)


def trusted_desk(base: Path) -> Desk:
    desk = Desk(base)
    assert type_in(desk.workdir, "config", "trust", "--yes").status == 0
    return desk


@LONG
@pytest.mark.parametrize("output", ["nobody", "/dev/full"])
def test_an_agent_is_set_up_with_all_of_it(tmp_path: Path, output: str) -> None:
    words = ["--address=coder", "--runtime=command", "--command=cat", "--permission-mode=plan", "--sandbox=off"]
    whole, half = tmp_path / "a", tmp_path / "b"
    for folder in (whole, half):
        (folder / ".git").mkdir(parents=True)
    assert type_in(whole, "init", *words).status == 0
    if output == "nobody":
        assert unread(half, "init", *words).stderr == ""
    else:
        with Path(output).open("w") as full:
            subprocess.run([COMMAND, "init", *words], cwd=half, stdout=full, check=False, timeout=60)
    config = Path(".agent-mailer", "config.toml")
    assert "sandbox" in (half / config).read_text(), "how it is held is not left open"
    assert (half / config).read_text() == (whole / config).read_text()
    assert not Workplace(half).trust.verdict.changed


def test_what_was_set_is_trusted(tmp_path: Path) -> None:
    desk = trusted_desk(tmp_path)
    unread(desk.workdir, "config", "set", "permission_mode", "bypassPermissions")
    place = Workplace(desk.workdir)
    assert place.config.permission_mode == "bypassPermissions"
    assert not place.trust.verdict.changed


def test_what_was_to_be_trusted_is(tmp_path: Path) -> None:
    desk = trusted_desk(tmp_path)
    config = desk.state / "config.toml"
    config.write_text(config.read_text().replace('permission_mode = "', 'permission_mode = "acceptEdits" # "'))
    assert Workplace(desk.workdir).trust.verdict.changed
    unread(desk.workdir, "config", "trust", "--yes")
    assert not Workplace(desk.workdir).trust.verdict.changed


@pytest.mark.parametrize("words", [("send", "coder", "hello"), ("mail", "reply", "ID", "--body", "hello")])
def test_what_was_sent_is_said_to_be_where_its_id_cannot_be_printed(tmp_path: Path, words: tuple[str, ...]) -> None:
    desk = trusted_desk(tmp_path)
    first = type_in(desk.workdir, "send", "coder", "first").out.strip()
    argv = [COMMAND, *(first if word == "ID" else word for word in words)]
    if "reply" in words:
        argv += ["--as", "coder"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(argv, cwd=desk.workdir, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = " ".join(ended.stderr.split())
    assert ended.returncode == 1
    assert "error: sent as " in said
    assert "typed again it would be sent again" in said
    assert len([*desk.root.glob("agents/*/inbox/*/*.md")]) == 2
