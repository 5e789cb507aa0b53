"""The machine around a watcher: limits that are too small are told before they hurt, and odd surroundings are borne."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.desk import CLI, Desk, until
from tests.integration.test_start_faults import can_mount
from tests.refusing import On, Refusing
from tests.sizes import LONG
from tests.typed import COMMAND

from agent_mailer.checks import Level, limits
from agent_mailer.checks.limits import check_limits
from agent_mailer.checks.machine import check_commands, check_disk, check_turn_end
from agent_mailer.cli.terminal.streams import Unhurried
from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault, ExitCode
from agent_mailer.events import EventName
from agent_mailer.meanwhile import meanwhile
from agent_mailer.process.first import in_a_pid_namespace
from agent_mailer.process.handle import identify
from agent_mailer.process.tree import members
from agent_mailer.processes import can_inherit_orphans
from agent_mailer.setup.config_file import publish


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's /proc and control groups as files that a test may write."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "stat").touch()
    (proc / "self" / "cgroup").write_text("0::/user/one\n")
    (proc / "meminfo").write_text("MemTotal:  8000000 kB\nMemAvailable:  4000000 kB\n")
    (groups / "user" / "one").mkdir(parents=True)
    monkeypatch.setattr(limits, "PROC", proc)
    monkeypatch.setattr(limits, "CGROUPS", groups)
    return tmp_path


@pytest.fixture
def low(request: pytest.FixtureRequest) -> Iterator[None]:
    """A soft limit of this process, for the length of a test."""
    which, size = request.param
    before = resource.getrlimit(which)
    resource.setrlimit(which, (size, before[1]))
    yield
    resource.setrlimit(which, before)


def short(turns: int = 1) -> list[str]:
    return [found.text for found in check_limits(turns) if found.result is not Level.OK]


def test_a_machine_with_room_is_said_to_have_it(system: Path) -> None:
    [found] = check_limits(1)
    assert found.result is Level.OK
    assert "MiB of memory left" in found.text


@pytest.mark.parametrize("low", [(resource.RLIMIT_NOFILE, 90)], indirect=True)
def test_few_open_files_are_told_by_how_many_turns_need(system: Path, low: None) -> None:
    assert short(1) == []
    assert "90 files" in short(4)[0]


@pytest.mark.parametrize("low", [(resource.RLIMIT_FSIZE, 1_000_000)], indirect=True)
def test_a_limit_of_file_size_is_a_failure(system: Path, low: None) -> None:
    assert "no file may have more than 1000000 bytes" in short()[0]


@pytest.mark.parametrize("low", [(resource.RLIMIT_AS, 2 << 30)], indirect=True)
def test_a_limit_of_addresses(system: Path, low: None) -> None:
    assert "2048 MiB of addresses" in short()[0]


def test_little_memory_of_the_machine(system: Path) -> None:
    (system / "proc" / "meminfo").write_text("MemAvailable:  100000 kB\n")
    assert "97 MiB of memory" in short()[0]


def test_a_container_with_little_memory_or_few_processes(system: Path) -> None:
    above, inside = system / "cgroup" / "user", system / "cgroup" / "user" / "one"
    for folder, most in ((inside, "max"), (above, str(600 << 20))):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{500 << 20}\n")
    (inside / "pids.max").write_text("100\n")
    (inside / "pids.current").write_text("95\n")
    assert short() == [
        "5 more processes can be started of 100, 1 turns side by side need 40",
        "100 MiB of memory are left",
    ]


def test_without_proc_no_watcher_starts(system: Path) -> None:
    (system / "proc" / "self" / "stat").unlink()
    assert "could be neither known nor ended" in short()[0]


@LONG
def test_a_watcher_says_at_its_start_what_is_short(desk: Desk) -> None:
    desk.send()
    words = [
        "/bin/sh",
        "-c",
        'ulimit -n 70; exec "$@"',
        "sh",
        COMMAND,
        "watch",
        "--once",
        "--workdir",
        str(desk.workdir),
    ]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    [told] = desk.log(EventName.MACHINE_SHORT)
    assert told["why"].startswith("ulimit -n: a process may have 70 files open")
    assert len(desk.inbox()) == 1


@LONG
@pytest.mark.parametrize("option", ["hidepid=2", "subset=pid"])
def test_a_proc_that_hides(desk: Desk, option: str) -> None:
    if not can_mount():
        pytest.skip("nothing can be mounted here")
    desk.send()
    script = f'mount -t proc -o {option} proc /proc && "$@"'
    words = ["unshare", "-mpf", "sh", "-c", script, "sh", COMMAND, "watch", "--once", "-C", str(desk.workdir)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    assert len(desk.inbox()) == 1


def test_no_home_no_language_blanks_in_the_path_and_a_umask_that_forbids_nothing(desk: Desk) -> None:
    programs = desk.base / "my programs"
    programs.mkdir()
    (programs / "an agent").write_text("#!/bin/sh\ncat >/dev/null; echo fertig: ü\n")
    (programs / "an agent").chmod(0o755)
    desk.configure(command=["an agent"])
    desk.send()
    before = set(desk.state.rglob("*"))
    done = subprocess.run(
        [*CLI, "watch", "--once", "--workdir", str(desk.workdir)],
        env={"PATH": f"{programs}: :/usr/bin:/bin", "XDG_STATE_HOME": str(desk.base / "state")},
        umask=0,
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done
    assert "fertig: ü" in desk.inbox()[0].body
    made = {path for path in [*desk.state.rglob("*"), *desk.root.rglob("*")] if not path.is_symlink()} - before
    assert [path for path in made if path.stat().st_mode & 0o077] == []


def test_a_configuration_that_is_mounted_by_itself_is_left_whole_and_named(tmp_path: Path) -> None:
    """A file that a container has as a volume of its own cannot be replaced."""
    path = tmp_path / "config.toml"
    path.write_text("a = 1\n")
    with pytest.raises(ConfigFault) as raised:
        publish(path, b"a = 2\n", b"a = 1\n", Disk(Refusing("config.toml", On.REPLACE, code=errno.EBUSY)))
    assert "is a mount of its own" in raised.value.message
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.toml"]
    assert path.read_text() == "a = 1\n"


@LONG
def test_a_watcher_with_such_a_configuration_works(desk: Desk) -> None:
    if not can_mount():
        pytest.skip("nothing can be mounted here")
    desk.send()
    config = desk.state / "config.toml"
    volume = desk.base / "volume.toml"
    config.rename(volume)
    config.touch(0o600)
    script = f'mount --bind {volume} {config} && "$0" watch --once && ! "$0" config set max_retries 5'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, COMMAND], cwd=desk.workdir, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done
    assert "findmnt -T" in done.stderr
    assert len(desk.inbox()) == 1


def test_where_no_thread_can_be_started_output_still_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    stream = Unhurried(writer)
    line = b"x" * 99 + b"\n"
    for _ in range(100):
        stream.write(line)
    found = os.read(reader, 65536)
    assert found == line * (len(found) // 100)
    assert stream.take_lost() == 100 - len(found) // 100 > 0
    stream.write(b"again\n")
    assert os.read(reader, 100) == b"again\n"
    os.close(reader)
    os.close(writer)


def test_the_loop_goes_on_while_something_takes_long() -> None:
    async def story() -> None:
        go = threading.Event()
        taking = asyncio.create_task(meanwhile(lambda: go.wait(60)))
        await asyncio.sleep(0)
        go.set()
        assert await taking
        with pytest.raises(OSError, match="full"):
            await meanwhile(refuses)

    asyncio.run(story())


def test_where_no_thread_can_be_started_it_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def story() -> None:
        assert await meanwhile(threading.get_ident) == threading.get_ident()
        with pytest.raises(OSError, match="full"):
            await meanwhile(refuses)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    asyncio.run(story())


def refuses() -> None:
    raise OSError("full")


@LONG
def test_a_watcher_that_was_frozen_holds_nothing_against_the_turn(desk: Desk) -> None:
    """Stopped, as a laptop or a virtual machine is: the turn ended in time, and its clock has run out since."""
    desk.configure(turn_timeout=3)
    desk.shell_that_tells("sleep 1; echo in time")
    desk.send()
    with desk.watching() as watcher:
        until(desk.marks, "the turn")
        began = time.monotonic()
        watcher.send_signal(signal.SIGSTOP)
        desk.send(thread="meanwhile")
        until(lambda: time.monotonic() > began + 5, "its time is over")
        watcher.send_signal(signal.SIGCONT)
        until(lambda: len(desk.inbox()) == 2, "both answers")
    assert [row["outcome"] for row in desk.log(EventName.TURN_ENDED)] == ["done", "done"]


@LONG
def test_a_machine_that_slept_holds_nothing_against_the_turn(desk: Desk) -> None:
    """Agent, holder and watcher stand still for longer than the turn may take, and go on in any order."""
    desk.configure(turn_timeout=4, max_retries=0)
    go = desk.base / "go"
    desk.shell_that_tells(f"while [ ! -e '{go}' ]; do sleep 0.05; done; echo after a sleep")
    for number, order in enumerate((1, -1)):
        go.unlink(missing_ok=True)
        desk.send(thread=f"order {order}")
        with desk.watching() as watcher:
            until(lambda number=number: len(desk.log(EventName.TURN_STARTED)) > number, "the turn")  # type: ignore[misc]
            started = desk.log(EventName.TURN_STARTED)[-1]
            holder = identify(started["pid"])
            assert holder is not None
            everybody = [process.pid for process in members(started["turn_id"], holder)] + [watcher.pid]
            for pid in everybody:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            until(lambda began=began: time.monotonic() > began + 5, "the turn's time is over")  # type: ignore[misc]
            go.touch()
            for pid in everybody[::order]:
                with suppress(ProcessLookupError):  # its shell buries a `sleep` that had ended
                    os.kill(pid, signal.SIGCONT)
            until(lambda number=number: len(desk.inbox()) > number, "the answer")  # type: ignore[misc]
    assert [row["outcome"] for row in desk.log(EventName.TURN_ENDED)] == ["done", "done"]
    assert [mail.body for mail in desk.inbox()] == ["after a sleep\n"] * 2


def test_what_finds_a_turns_processes_is_named_as_the_machine_has_it() -> None:
    plain, limited = check_turn_end(""), check_turn_end("2G")
    assert ("environment, session, descent" in plain.text, "control group" in plain.text) == (True, False)
    assert "control group (turn_memory)" in limited.text
    assert ("subreaper" in plain.text) is can_inherit_orphans()
    assert ("pid namespace" in plain.text) is in_a_pid_namespace()


@pytest.mark.parametrize(
    ("mebibytes", "files", "names", "level"),
    [
        (1024, 2**20, 1000, Level.OK),
        (1024, 0, 0, Level.OK),
        (1023, 2**20, 1000, Level.WARNING),
        (64, 2**20, 1000, Level.WARNING),
        (63, 2**20, 1000, Level.FAILED),
        (0, 2**20, 1000, Level.FAILED),
        (1024, 2**20, 999, Level.FAILED),
    ],
)
def test_room_is_what_is_left_to_the_user_and_not_what_is_kept_for_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mebibytes: int, files: int, names: int, level: Level
) -> None:
    left = SimpleNamespace(f_frsize=4096, f_bavail=mebibytes * 256, f_bfree=2**30, f_files=files, f_favail=names)
    left.f_ffree = 2**20
    monkeypatch.setattr(os, "statvfs", lambda _: left)
    [found] = check_disk([tmp_path, tmp_path])
    assert (found.result, bool(found.fix)) == (level, level is not Level.OK)
    assert found.exit_code == (ExitCode.UNAVAILABLE if level is Level.FAILED else ExitCode.OK)
    assert ("999 file names" if names == 999 else f"{mebibytes} MiB free") in found.text


def test_it_is_told_who_else_is_called_amp_or_agent_mailer(tmp_path: Path) -> None:
    ours, links = Path(COMMAND).parent, tmp_path / "links"
    links.mkdir()
    for name in ("agent-mailer", "amp"):
        (links / name).symlink_to(ours / name)
    assert check_commands(str(links)).text == "agent-mailer and amp are ours"
    assert check_commands(str(tmp_path)).result is Level.OK
    for name, instead in (("amp", "agent-mailer team"), ("agent-mailer", str(ours / "agent-mailer"))):
        theirs = tmp_path / name
        theirs.mkdir()
        (theirs / name).write_text("#!/bin/sh\n")
        (theirs / name).chmod(0o755)
        found = check_commands(os.pathsep.join([str(theirs), str(links)]))
        assert (found.result, found.looked_at) == (Level.WARNING, str(theirs / name))
        assert found.fix == f"put {ours} before {theirs} in PATH; or type: {instead}"
        assert check_commands(os.pathsep.join([str(links), str(theirs)])).result is Level.OK
