"""A turn's scope by a `systemd-run` that is a script here: it becomes the holder, fails, or never answers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import Desk, until
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.events import EventName
from agent_mailer.outcomes import Exit
from agent_mailer.process import scope
from agent_mailer.process.holder import start_behind_gate
from agent_mailer.process.scope import Start, properties_of, start_limited, why_unlimited
from agent_mailer.processes import read_stat

LIMIT = 64 * 2**20
BECOMES_THE_HOLDER = 'echo "$*" >"$SAID"; while [ "$1" != -- ]; do shift; done; shift; INVOCATION_ID=x exec "$@"'
LOOKS = (
    "import json, os, sys; json.dump([sorted(os.listdir('/proc/self/fd')), sorted(os.environ), sys.stdin.read()], "
    "open('seen', 'w')); sys.exit(3)"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prompt.md").write_text("work")
    return tmp_path


def by(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on `systemd-run` is that script."""
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "systemd-run"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")


async def limited(folder: Path, memory: int) -> Start:
    env = {"XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"], "SAID": str(folder / "said"), "PATH": "/usr/bin:/bin"}
    words = [sys.executable, "-I", "-c", LOOKS]
    behind_gate = partial(start_behind_gate, words, env=env, cwd=folder, turn_dir=folder, turn_id="t1")
    return await start_limited(behind_gate, memory, env, "t1") if memory else Start(behind_gate())


def run(folder: Path, memory: int = LIMIT) -> tuple[str, Exit]:
    """One turn of a program that looks about; why it was not limited, and how it ended."""

    async def turn() -> tuple[str, Exit]:
        start = await limited(folder, memory)
        with start.gated as gated:
            supervised = gated.release()
        await supervised.wait_ended()
        return start.unlimited, supervised.exit()

    return asyncio.run(turn())


def test_in_a_scope_the_agent_is_the_same_as_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by(folder, BECOMES_THE_HOLDER, monkeypatch)
    assert run(folder, memory=0) == ("", Exit(status=3))
    without = json.loads((folder / "seen").read_text())
    assert not (folder / "said").exists()
    why, end = run(folder)
    assert end == Exit(status=3)
    assert "memory controller" in why  # a script limits nothing
    seen = json.loads((folder / "seen").read_text())
    # A shell keeps its own script open for what it becomes, where that got a number beyond 9; systemd-run is none.
    seen[0] = [number for number in seen[0] if number != "10"]
    assert seen == without
    said = (folder / "said").read_text()
    assert said.startswith("--user --scope --quiet --collect --unit=agent-mailer-turn-t1.scope ")
    assert f"--property=MemoryMax={LIMIT} --property=MemorySwapMax=0 -- /bin/sh" in said


@pytest.mark.parametrize("script", ["echo no >&2; exit 1", "exec sleep 600"])
def test_where_there_is_no_scope_the_turn_runs_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(scope, "SCOPE_SECONDS", 0.5)
    by(folder, f'echo $$ >"$SAID"; {script}', monkeypatch)
    assert run(folder) == ("the user's systemd gave no scope for the turn", Exit(status=3))
    assert read_stat(int((folder / "said").read_text())) is None, "who gave none is ended"


def test_who_is_stopped_while_it_waits_for_a_scope_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked, as one might not heed it."""
    by(folder, 'trap "touch asked; exit" TERM; echo $$ >"$SAID"; while :; do sleep 0.05; done', monkeypatch)
    monkeypatch.chdir(folder)
    before = procfs.descriptors()

    async def stopped() -> None:
        waiting = asyncio.create_task(limited(folder, LIMIT))
        await asyncio.to_thread(until, (folder / "said").exists, "who is to give a scope")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(stopped())
    assert not (folder / "asked").exists()
    assert read_stat(int((folder / "said").read_text())) is None
    assert procfs.descriptors() <= before


@pytest.mark.parametrize("name", ["AGENT_MAILER_WORKDIR", "AGENT_MAILER_PROJECT_DIR"])
def test_no_file_of_the_agents_becomes_systemd(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    by(folder, f"echo {LIMIT}", monkeypatch)
    monkeypatch.setenv("PATH", str(folder / "bin"))
    env = {"XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"], "PATH": str(folder / "bin")}
    assert why_unlimited(LIMIT, env) == ""
    assert why_unlimited(LIMIT, {**env, name: str(folder)}) != "", "the system's own is asked, or there is none"


def test_without_systemd_nothing_is_tried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run(folder) == ("this system has no systemd-run", Exit(status=3))
    by(folder, "exit 1", monkeypatch)
    assert "XDG_RUNTIME_DIR is not set" in why_unlimited(LIMIT, {})


@LONG
def test_doctor_says_whether_the_limit_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path)
    desk.configure(turn_memory="64M")

    def told() -> dict[str, str]:
        checks = type_in(desk.workdir, "doctor", "--json").json["checks"]
        return next(check for check in checks if check["name"] == "turn_memory")

    by(tmp_path, "echo Failed to connect to bus >&2; exit 1", monkeypatch)
    assert told()["result"] == "warning"
    assert told()["text"] == "turns run without this limit: Failed to connect to bus"
    (tmp_path / "bin" / "systemd-run").write_text(f"#!/bin/sh\necho {LIMIT}\n")
    assert (told()["result"], told()["text"]) == ("ok", "a turn is held to 64M")
    desk.send("please")
    assert [e.fields["why"] for e in desk.once() if e.event is EventName.TURN_UNLIMITED] == [
        "the user's systemd gave no scope for the turn"
    ]


@pytest.mark.parametrize("limit", ["64M", ""])
def test_a_turn_that_runs_without_the_limit_that_was_asked_for_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    by(tmp_path, "exit 1", monkeypatch)
    desk = Desk(tmp_path)
    desk.configure(turn_memory=limit)
    desk.send("please")
    told = [dict(e.fields) for e in desk.once() if e.event is EventName.TURN_UNLIMITED]
    assert [one["why"] for one in told] == (["the user's systemd gave no scope for the turn"] if limit else [])


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ("4 GB", "must be a size such as 4G or 800M"),
        ("4", "no agent program starts within 4"),
        ("-1G", "must be a size"),
    ],
)
def test_what_is_no_size_is_refused(tmp_path: Path, size: str, why: str) -> None:
    desk = Desk(tmp_path)
    refused = type_in(desk.workdir, "config", "set", "turn_memory", size)
    assert refused.status == 2
    assert why in refused.err
    assert type_in(desk.workdir, "config", "set", "turn_memory", "800M").status == 0


def test_a_turns_scope_ends_only_after_the_service_of_its_watcher() -> None:
    """Units end in the other order of that in which they begin."""
    assert "--property=Before=agent-mailer@coder.service" in properties_of(1 << 30, "agent-mailer@coder.service")
    assert not [word for word in properties_of(1 << 30, "") if "Before" in word]
