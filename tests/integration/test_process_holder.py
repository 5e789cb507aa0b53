"""The holder with real processes: the gate, the record of the end, what reaches the agent, adoption."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import procfs
from tests.integration.test_process_spawn import WAYS

from agent_mailer.outcomes import Exit
from agent_mailer.process import holder
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive, reap, send, wait_gone, waited_for
from agent_mailer.process.holder import _SCRIPT, HOLDER, GatedHolder, Supervised, adopt, start_behind_gate
from agent_mailer.process.tree import EndReport, end_tree, members
from agent_mailer.processes import children, scan

ENV = {"PATH": "/usr/bin:/bin", "NAME": "va lue"}

PARENT = """
import json, sys
from pathlib import Path
from agent_mailer.process.holder import start_behind_gate
folder, turn_id, release, *argv = sys.argv[1:]
env = {"PATH": "/usr/bin:/bin"}
gated = start_behind_gate(argv, env=env, cwd=Path(folder), turn_dir=Path(folder), turn_id=turn_id)
if release == "release":
    gated.release()
identity = gated.identity
print(json.dumps([identity.pid, identity.started, identity.boot]), flush=True)
sys.stdin.read()
"""


class Turn:
    """A turn's folder, and the processes started for it."""

    def __init__(self, folder: Path) -> None:
        self.id = f"turn-{uuid.uuid4().hex}"
        self.dir = folder / "turn"
        self.dir.mkdir()
        (self.dir / "prompt.md").write_text("Message: m1\nthe prompt\n")
        self.witness = folder / "witness"
        self.known: list[ProcessIdentity] = []
        self.env = ENV

    def start(self, *argv: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> GatedHolder:
        gated = start_behind_gate(argv, env=env or self.env, cwd=cwd or self.dir, turn_dir=self.dir, turn_id=self.id)
        self.known.append(gated.identity)
        return gated

    def sh(self, script: str) -> Supervised:
        return self.start("/bin/sh", "-c", script, "agent", str(self.witness)).release()

    def run(self, *argv: str, cwd: Path | None = None) -> Exit:
        supervised = self.start(*argv, cwd=cwd).release()
        asyncio.run(supervised.wait_ended())
        return supervised.exit()

    def finish(self, supervised: Supervised) -> Exit:
        asyncio.run(supervised.wait_ended())
        return supervised.exit()

    def file(self, name: str) -> Path:
        return self.dir / name


@pytest.fixture
def turn(tmp_path: Path) -> Iterator[Turn]:
    turn = Turn(tmp_path)
    yield turn
    for identity in turn.known:
        while left := members(turn.id, identity):
            for process in left:
                send(process, signal.SIGKILL)
                reap(process)


@pytest.fixture(params=["/bin/sh", "/bin/bash"])
def shell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shells that are /bin/sh somewhere."""
    monkeypatch.setattr(holder, "SHELL", request.param)


def wait_for_file(path: Path) -> None:
    with subprocess.Popen(["/bin/sh", "-c", 'until [ -s "$0" ]; do sleep 0.01; done', str(path)]) as watching:
        assert watching.wait(30) == 0


def gone(*identities: ProcessIdentity) -> bool:
    return asyncio.run(wait_gone(identities, 30))


@pytest.fixture
def parent(turn: Turn) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start_parent(started: list[subprocess.Popen[str]], turn: Turn, release: str, *argv: str) -> ProcessIdentity:
    """Another process starts the turn, as a watcher would."""
    words = [sys.executable, "-c", PARENT, str(turn.dir), turn.id, release, *argv]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stdout is not None
    identity = ProcessIdentity(*json.loads(process.stdout.readline()))
    turn.known.append(identity)
    return identity


def test_a_gate_that_is_not_released_runs_nothing(turn: Turn) -> None:
    gated = turn.start("/usr/bin/touch", str(turn.witness))
    assert is_alive(gated.identity)
    assert gated.identity.pid in waited_for, "no stranger, whom the end of another turn would end"
    gated.abandon()
    assert identify(gated.identity.pid) != gated.identity, "reaped"
    assert gated.identity.pid not in waited_for
    assert not turn.witness.exists()
    assert not turn.file("exit").exists()
    gated.abandon()
    with pytest.raises(OSError, match="closed already"):
        gated.release()


def test_one_that_cannot_be_known_just_now_leaves_nothing(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, before, born = os.open, procfs.descriptors(), children()

    def refused(path: str, *how: Any, **more: Any) -> int:
        if str(path).endswith("/stat"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return opened(path, *how, **more)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(OSError, match="Too many open files"):
        turn.start("/usr/bin/touch", str(turn.witness))
    assert procfs.descriptors() <= before
    assert children() <= born
    assert not turn.witness.exists()


def test_a_block_that_fails_abandons_its_gate(turn: Turn) -> None:
    with pytest.raises(ZeroDivisionError), turn.start("/usr/bin/touch", str(turn.witness)) as gated:
        raise ZeroDivisionError
    assert not is_alive(gated.identity)
    assert not turn.witness.exists()


def test_a_watcher_killed_before_the_release_leaves_nothing(turn: Turn, parent: list[subprocess.Popen[str]]) -> None:
    identity = start_parent(parent, turn, "hold", "/usr/bin/touch", str(turn.witness))
    assert is_alive(identity)
    parent[0].kill()
    assert gone(identity)
    assert not turn.witness.exists()
    assert not turn.file("exit").exists()


def test_a_second_holder_does_not_keep_the_first_gate_open(turn: Turn, tmp_path: Path) -> None:
    first = turn.start("/usr/bin/touch", str(turn.witness))
    (tmp_path / "other").mkdir()
    other = Turn(tmp_path / "other")
    second = other.start("/bin/true")
    os.close(first._gate)  # type: ignore[arg-type]  # what the death of the watcher does
    first._gate = None
    assert gone(first.identity)
    reap(first.identity)
    second.abandon()
    assert not turn.witness.exists()


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_at_the_gate_runs_nothing(turn: Turn, sent: signal.Signals) -> None:
    gated = turn.start("/usr/bin/touch", str(turn.witness))
    assert send(gated.identity, sent)
    assert gone(gated.identity)
    with pytest.raises(BrokenPipeError):
        gated.release()
    assert identify(gated.identity.pid) != gated.identity, "reaped"
    assert not turn.witness.exists()


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("exit 0", Exit(status=0)),
        ("exit 1", Exit(status=1)),
        ("exit 128", Exit(status=128)),
        ("exit 255", Exit(status=255)),
        ("kill -KILL $$", Exit(signal=9)),
        ("kill -TERM $$", Exit(signal=15)),
        ("kill -INT $$", Exit(signal=2)),
        ("kill -PIPE $$", Exit(signal=13)),
    ],
)
def test_the_end_is_recorded(turn: Turn, script: str, end: Exit) -> None:
    supervised = turn.sh(script)
    assert turn.finish(supervised) == end
    assert supervised.released
    assert not supervised.running
    assert identify(supervised.identity.pid) != supervised.identity, "reaped"
    assert turn.file("exit").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in turn.dir.iterdir()) == ["exit", "prompt.md", "started", "stderr", "stdout"]
    assert turn.finish(supervised) == end, "asked again"


@pytest.mark.usefixtures("shell")
def test_a_program_that_is_not_there(turn: Turn) -> None:
    assert turn.run("/nonexistent/program", "word") == Exit(status=127)
    assert "/nonexistent/program" in turn.file("stderr").read_text()


@pytest.mark.usefixtures("shell")
def test_the_shell_adds_no_words_of_its_own(turn: Turn) -> None:
    turn.finish(turn.sh("echo said >&2; kill -TERM $$"))
    assert turn.file("stderr").read_text() == "said\n"


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_leaves_a_record(turn: Turn, sent: signal.Signals) -> None:
    supervised = turn.sh("echo up; exec sleep 600")
    wait_for_file(turn.file("stdout"))
    os.killpg(supervised.identity.pid, sent)
    assert turn.finish(supervised) == Exit(signal=sent)


@pytest.mark.usefixtures("shell")
def test_the_holder_outlives_signals_while_the_agent_works(turn: Turn) -> None:
    supervised = turn.sh('echo up; until [ -s "$1" ]; do sleep 0.01; done; exit 7')
    wait_for_file(turn.file("stdout"))
    for sent in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert send(supervised.identity, sent)
    turn.witness.write_text("go")
    assert turn.finish(supervised) == Exit(status=7)


def test_a_record_of_an_earlier_start_is_none_of_this_one(turn: Turn) -> None:
    assert turn.run("/bin/true") == Exit(status=0)
    gated = turn.start("/bin/false")
    assert not turn.file("exit").exists()
    assert turn.finish(gated.release()) == Exit(status=1)


def test_an_agent_that_empties_its_output_leaves_no_hole_in_it(turn: Turn) -> None:
    turn.finish(turn.sh("echo before; : >stdout; echo after"))
    assert turn.file("stdout").read_bytes() == b"after\n"


def test_a_killed_holder_leaves_no_record(turn: Turn) -> None:
    supervised = turn.sh("echo up; exec sleep 600")
    wait_for_file(turn.file("stdout"))
    send(supervised.identity, signal.SIGKILL)
    assert turn.finish(supervised) == Exit()
    assert len(members(turn.id, supervised.identity)) == 1, "the agent goes on; ending it is the tree's work"


@pytest.mark.parametrize(
    ("script", "nothing"),
    [
        ("exit 0", True),
        ("kill -KILL $$", True),
        # Out of its session, without the turn's id: only the holder still knows it.
        ("setsid env -i /bin/sh -c 'echo $$ >child; exec sleep 600' & until [ -s child ]; do :; done", False),
        ("kill -KILL $PPID; sleep 0.1", False),
        # The end cannot be recorded, and the holder does not stay: whoever was left below it is nobody's.
        ('cd /; rm -r "$OLDPWD"', False),
    ],
)
@pytest.mark.usefixtures("shell")
def test_a_holder_says_that_its_agent_left_nothing_only_where_that_is_so(
    turn: Turn, script: str, *, nothing: bool
) -> None:
    supervised = turn.sh(f"cd '{turn.dir}'; {script}")

    async def end() -> EndReport:
        await supervised.wait_ended()
        assert supervised.left_nothing is nothing
        return await end_tree(turn.id, supervised.holder, left_nothing=supervised.left_nothing)

    assert asyncio.run(end()).survivors == ()
    assert members(turn.id, supervised.identity) == []
    if turn.file("child").exists():
        left = identify(int(turn.file("child").read_text()))
        assert left is None or not is_alive(left)


def test_who_bears_the_turns_id_elsewhere_is_found_in_one_look(turn: Turn) -> None:
    """A server that ran before, say, has started it for the agent."""
    supervised = turn.sh("exit 0")
    stranger = subprocess.Popen(["/bin/sleep", "600"], env={"AGENT_MAILER_TURN_ID": turn.id})
    try:
        asyncio.run(supervised.wait_ended())
        assert supervised.left_nothing
        report = asyncio.run(end_tree(turn.id, supervised.holder, left_nothing=True))
        assert (report.signalled, report.survivors) == (1, ())
        assert stranger.wait(10) == -signal.SIGTERM
    finally:
        stranger.kill()
        stranger.wait()


def test_where_pids_may_have_gone_round_everybody_is_looked_at() -> None:
    """Whoever was started after the holder has a larger pid, but not for ever."""
    entry = "AGENT_MAILER_TURN_ID=of-no-turn"
    stranger = subprocess.Popen(["/bin/sleep", "600"], env=dict([entry.split("=")]))
    try:
        for after in (stranger.pid, stranger.pid + 1, 2**22):
            table, found = scan(entry.encode(), since=1, after=after)
            assert found == {stranger.pid}
            assert os.getpid() in table
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize(
    "record", [b"", b"\n", b"0", b"13", b"-1\n", b"0 0\n", b"256\n", b"999999\n", b"zero\n", b"\xff", b"1" * 99]
)
def test_a_record_that_is_none(turn: Turn, record: bytes) -> None:
    supervised = turn.sh("exit 0")
    turn.finish(supervised)
    turn.file("exit").write_bytes(record)
    assert supervised.exit() == Exit()


def test_a_stale_record_and_old_output_do_not_count(turn: Turn) -> None:
    for name in ("exit", "stdout", "stderr"):
        turn.file(name).write_text("0")
        turn.file(name).chmod(0o644)
    supervised = turn.sh('echo new; until [ -s "$1" ]; do sleep 0.01; done')
    assert supervised.exit() == Exit()
    wait_for_file(turn.file("stdout"))
    send(supervised.identity, signal.SIGKILL)
    assert turn.finish(supervised) == Exit()
    assert turn.file("stdout").read_text() == "new\n"
    assert turn.file("stderr").read_text() == ""
    assert [turn.file(name).stat().st_mode & 0o777 for name in ("stdout", "stderr")] == [0o600, 0o600]


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize("way", WAYS)
def test_what_the_agent_gets(turn: Turn, tmp_path: Path, way: str) -> None:
    turn.env = ENV | WAYS[way]
    folder = tmp_path / "work dir $(touch x)"
    folder.mkdir()
    script = "import json, os, sys; print(json.dumps([sys.stdin.read(), sys.argv[1:], dict(os.environ), os.getcwd()]))"
    words = ["", "a b", "$HOME", "'\"`\\", "new\nline", "-n"]
    assert turn.run(sys.executable, "-c", script, *words, cwd=folder) == Exit(status=0)
    prompt, got, env, cwd = json.loads(turn.file("stdout").read_text())
    assert prompt == turn.file("prompt.md").read_text()
    assert got == words
    assert cwd == str(folder)
    assert env.pop("PWD") == str(folder)
    for name in ("SHLVL", "_", "LC_CTYPE"):  # bash and Python add these by themselves
        env.pop(name, None)
    assert env == turn.env | {"AGENT_MAILER_TURN_ID": turn.id}


@pytest.mark.parametrize("way", WAYS)
def test_no_descriptor_and_no_terminal_reaches_the_agent(turn: Turn, tmp_path: Path, way: str) -> None:
    turn.env = ENV | WAYS[way]
    inherited = [os.open(tmp_path, os.O_RDONLY) for _ in range(3)]
    for fd in inherited:
        os.set_inheritable(fd, True)
    try:
        turn.run("/bin/ls", "-l", "/proc/self/fd")
        targets = [line.partition(" -> ") for line in turn.file("stdout").read_text().splitlines() if " -> " in line]
        turn.finish(turn.sh("ls /proc/$PPID/fd; ps -o tty= -p $$"))
    finally:
        for fd in inherited:
            os.close(fd)
    seen = {name.split()[-1]: target for name, _, target in targets}
    assert seen.pop("3").startswith("/proc/"), "ls reads the folder itself"
    assert seen == {str(fd): str(turn.file(name)) for fd, name in enumerate(("prompt.md", "stdout", "stderr"))}
    *holder_fds, tty = turn.file("stdout").read_text().split()
    assert holder_fds == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
    assert tty == "?"


def test_descriptors_in_odd_places_reach_the_agent_in_order(turn: Turn) -> None:
    """A watcher without stdin, stdout or stderr gets those very numbers for its files."""
    script = """
import os, sys
from pathlib import Path
from agent_mailer.process.holder import start_behind_gate
folder, turn_id = sys.argv[1:]
for fd in (0, 1, 2):
    os.close(fd)
gated = start_behind_gate(
    ["/bin/sh", "-c", "cat; echo err >&2"], env={}, cwd=Path(folder), turn_dir=Path(folder), turn_id=turn_id)
supervised = gated.release()
os.waitpid(gated.identity.pid, 0)
os._exit(supervised.exit().status)
"""
    assert subprocess.run([sys.executable, "-c", script, str(turn.dir), turn.id], check=False).returncode == 0
    assert turn.file("stdout").read_text() == turn.file("prompt.md").read_text()
    assert turn.file("stderr").read_text() == "err\n"


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize("way", WAYS)
def test_no_ignored_or_blocked_signal_reaches_the_agent(turn: Turn, way: str) -> None:
    ignored = [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGTSTP]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM])
    try:
        gated = turn.start("/bin/cat", "/proc/self/status", env=ENV | WAYS[way])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
    turn.finish(gated.release())
    lines = dict(line.split(":\t", 1) for line in turn.file("stdout").read_text().splitlines() if ":\t" in line)
    # The C library itself leaves the two signals it reserves for threads (32, 33) ignored in what it spawns.
    seen = [int(lines[name], 16) & ~(3 << 31) for name in ("SigBlk", "SigIgn", "SigCgt")]
    assert seen == [0, 0, 0]


def test_output_redirected_by_the_agent_itself_stays_whole(turn: Turn) -> None:
    turn.finish(turn.sh("echo one; echo two >/dev/stdout; echo three"))
    assert b"\0" not in turn.file("stdout").read_bytes()
    assert turn.file("stdout").read_text().endswith("three\n")


@pytest.mark.parametrize(("place", "runs"), [("started", True), ("/dev/full", False)])
def test_what_cannot_be_written_down_as_begun_does_not_begin(tmp_path: Path, place: str, runs: bool) -> None:
    plumbing = f'exec "$@" 3</dev/null 4>/dev/null 5>/dev/null 6>/dev/null 7</dev/null 8<. 9>{place}'
    script = ["/bin/sh", "-c", _SCRIPT, HOLDER, str(tmp_path), str(tmp_path / "exit"), "/usr/bin/touch", "ran"]
    subprocess.run(["/bin/sh", "-c", plumbing, "sh", *script], input=b"open\n", cwd=tmp_path, timeout=30, check=False)
    assert (tmp_path / "ran").exists() is runs
    assert (tmp_path / "exit").read_text() == ("0\n" if runs else "125\n")


def test_what_cannot_be_started_raises(turn: Turn, tmp_path: Path) -> None:
    huge = "x" * 10_000_000
    for words, cwd, env in (
        (["true"], None, None),
        ([], None, None),
        (["/bin/true"], tmp_path / "none", None),
        (["/bin/true", "a\0b"], None, None),
        (["/bin/true"], None, {"A": "x\0y"}),
        (["/bin/true", huge], None, None),
    ):
        before = procfs.descriptors()
        with pytest.raises(OSError, match=r"\w"):
            turn.start(*words, cwd=cwd, env=env).release()
        assert procfs.descriptors() <= before, "no descriptor is left open"
    turn.file("prompt.md").unlink()
    with pytest.raises(FileNotFoundError):
        turn.start("/bin/true")


def test_an_adopter_sees_the_end(turn: Turn, parent: list[subprocess.Popen[str]]) -> None:
    script = 'echo up; until [ -s "$0" ]; do sleep 0.01; done; exit 5'
    identity = start_parent(parent, turn, "release", "/bin/sh", "-c", script, str(turn.witness))
    wait_for_file(turn.file("stdout"))
    parent[0].kill()
    parent[0].wait()
    assert is_alive(identity)
    supervised = adopt(identity, turn.dir, turn.id)
    turn.witness.write_text("go")
    assert turn.finish(supervised) == Exit(status=5)


def test_adopting_what_has_ended(turn: Turn) -> None:
    first = turn.sh("exit 3")
    turn.finish(first)
    assert turn.finish(adopt(first.identity, turn.dir, turn.id)) == Exit(status=3)


def test_adopting_a_pid_that_was_given_out_again(turn: Turn) -> None:
    supervised = turn.sh("echo up; exec sleep 600")
    stranger = ProcessIdentity(supervised.identity.pid, supervised.identity.started - 1, supervised.identity.boot)
    other = adopt(stranger, turn.dir, turn.id)
    assert not other.running
    assert turn.finish(other) == Exit()
    assert supervised.running


@pytest.mark.parametrize("pidfd", [True, False])
def test_waiting_can_be_cancelled_and_shared(turn: Turn, monkeypatch: pytest.MonkeyPatch, *, pidfd: bool) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    supervised = turn.sh('until [ -s "$1" ]; do sleep 0.01; done; exit 6')

    async def scenario() -> None:
        before = procfs.descriptors()
        first, second, third = (asyncio.create_task(supervised.wait_ended()) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        turn.witness.write_text("go")
        await asyncio.wait_for(asyncio.gather(second, third), 30)
        assert procfs.descriptors() <= before

    asyncio.run(scenario())
    assert supervised.exit() == Exit(status=6)
    assert identify(supervised.identity.pid) != supervised.identity, "reaped"


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize("trap", ["mkfifo", "ln -s /etc/hostname"])
def test_what_the_agent_puts_in_the_records_place_hangs_nothing(turn: Turn, trap: str) -> None:
    supervised = turn.sh(f"{trap} {turn.file('exit')}; exit 3")
    assert turn.finish(supervised) == Exit()


@pytest.mark.parametrize("where", ["nothing", "a file"])
def test_where_there_is_no_folder_to_run_in_nothing_is_started(turn: Turn, where: str) -> None:
    place = turn.dir.parent / "work"
    if where == "a file":
        place.write_text("")
    with pytest.raises(NotADirectoryError, match="no folder to run in"):
        turn.start("/bin/true", cwd=place)
    assert (turn.known, turn.file("stdout").exists()) == ([], False)


@pytest.mark.parametrize("argv", [(), ("true",), ("./true",), ("bin/true",)])
def test_no_program_is_looked_for_where_it_runs(turn: Turn, argv: tuple[str, ...]) -> None:
    with pytest.raises(OSError, match="absolute path"):
        turn.start(*argv)
    assert (turn.known, turn.file("stdout").exists()) == ([], False)
