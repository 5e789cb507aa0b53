"""Who belongs to a turn: its session, what descends, what was left to us, and nobody who only came near."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.desk import said_in

from agent_mailer.process.handle import ProcessIdentity, identify, is_alive, send
from agent_mailer.process.tree import members

NOTHING = "env -i"
HERE = 'echo $$ >"{path}.new"; mv "{path}.new" "{path}"; '


class Family:
    """Processes by their names, each asleep; those of the turn are told by its id."""

    def __init__(self, folder: Path) -> None:
        self.turn_id = f"turn-{uuid.uuid4().hex}"
        self.own = f"env -i AGENT_MAILER_TURN_ID={self.turn_id}"
        self._folder = folder
        self._top: list[subprocess.Popen[bytes]] = []

    def one(self, name: str, marked: str, then: str = "exec sleep 600") -> str:
        """What a shell runs to have it: `marked` is how its environment begins."""
        words = HERE.format(path=self._folder / name) + then
        return f"{marked} /bin/sh -c {_quoted(words)}"

    def start(self, words: str) -> subprocess.Popen[bytes]:
        self._top.append(subprocess.Popen(["/bin/sh", "-c", f"exec {words}"], env={}))
        return self._top[-1]

    def process(self, name: str) -> ProcessIdentity:
        found = identify(int(said_in(self._folder / name, f"{name} is there")))
        assert found is not None
        return found

    def names(self, found: list[ProcessIdentity]) -> set[str]:
        return {path.name for path in self._folder.iterdir() if self.process(path.name) in found}

    def close(self) -> None:
        for path in self._folder.iterdir():
            if (process := identify(int(path.read_text()))) is not None:
                send(process, signal.SIGKILL)
        for one in self._top:
            one.wait()


def _quoted(words: str) -> str:
    return "'" + words.replace("'", "'\\''") + "'"


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    folder = tmp_path / "family"
    folder.mkdir()
    found = Family(folder)
    yield found
    found.close()


def _in_its_session(family: Family) -> set[str]:
    """Its parent has left, and its environment says nothing."""
    orphan = family.one("orphan", NOTHING)
    family.start(family.one("leader", f"setsid {family.own}", f"( {orphan} & )\nexec sleep 600"))
    return {"leader", "orphan"}


def _whose_leader_has_left(family: Family) -> set[str]:
    orphan, marked = family.one("orphan", NOTHING), family.one("marked", family.own)
    inside = _quoted(f"( {orphan} & )\n( {marked} & )")
    family.start(f"setsid {family.own} /bin/sh -c {inside}").wait()
    return {"orphan", "marked"}


def _in_a_session_of_somebody_else(family: Family) -> set[str]:
    inside = f"{family.one('marked', family.own)} &\n{family.one('bystander', NOTHING)} &\nexec sleep 600"
    family.start(family.one("leader", f"setsid {NOTHING}", inside))
    assert is_alive(family.process("bystander"))
    return {"marked"}


def _in_several_sessions(family: Family) -> set[str]:
    names = set()
    for number in range(3):
        orphan = family.one(f"orphan {number}", NOTHING)
        family.start(family.one(f"leader {number}", f"setsid {family.own}", f"( {orphan} & )\nexec sleep 600"))
        names |= {f"leader {number}", f"orphan {number}"}
    return names


def _generations(family: Family) -> set[str]:
    words = family.one("fourth", f"{NOTHING} setsid")
    for name in ("third", "second"):
        words = family.one(name, f"{NOTHING} setsid", f"{words} &\nwait")
    family.start(family.one("first", f"setsid {family.own}", f"{words} &\nwait"))
    return {"first", "second", "third", "fourth"}


@pytest.mark.parametrize(
    "begin",
    [_in_its_session, _whose_leader_has_left, _in_a_session_of_somebody_else, _in_several_sessions, _generations],
)
def test_whose_holder_is_not_known(family: Family, begin: Callable[[Family], set[str]]) -> None:
    expected = begin(family)
    for name in expected:
        assert is_alive(family.process(name))
    assert family.names(members(family.turn_id, None)) == expected


def test_who_was_found_before_belongs_with_what_descends_from_him_as_long_as_it_is_he(family: Family) -> None:
    child = family.one("child", f"{NOTHING} setsid")
    family.start(family.one("known", f"{NOTHING} setsid", f"{child} &\nwait"))
    assert is_alive(family.process("child"))
    known = family.process("known")
    assert family.names(members(family.turn_id, None, [known])) == {"known", "child"}
    for other in (
        msgspec.structs.replace(known, started=known.started - 1),
        msgspec.structs.replace(known, boot="another boot"),
    ):
        assert members(family.turn_id, None, [other]) == []


def test_who_has_a_large_environment_is_known_by_all_of_it() -> None:
    turn_id = f"turn-{uuid.uuid4().hex}"
    env = {f"FILL_{number}": "x" * 50_000 for number in range(4)}
    child = subprocess.Popen(
        ["/bin/sleep", "600"], env={**env, "AGENT_MAILER_TURN_ID": turn_id}, start_new_session=True
    )
    try:
        assert [one.pid for one in members(turn_id, None)] == [child.pid]
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts what is another user's")
def test_what_another_users_process_says_of_itself_counts_for_nothing() -> None:
    turn_id = f"turn-{uuid.uuid4().hex}"
    for user, belongs in ((65534, False), (0, True)):
        with subprocess.Popen(["/bin/sleep", "600"], env={"AGENT_MAILER_TURN_ID": turn_id}, user=user) as process:
            found = members(turn_id, None)
            process.kill()
        assert [one.pid for one in found] == [process.pid] * belongs


def test_who_calls_from_within_the_turn_is_no_member_though_his_parent_is(family: Family) -> None:
    """As an agent does that cancels its own turn; what he started himself is one."""
    script = """
import os, sys
from agent_mailer.process.tree import members
found = members(sys.argv[1], None)
assert os.getpid() not in [one.pid for one in found], found
assert os.getppid() in [one.pid for one in found], found
"""
    words = ["/bin/sh", "-c", '"$@" && :', "sh", sys.executable, "-c", script, family.turn_id]
    env = {"AGENT_MAILER_TURN_ID": family.turn_id, "PATH": os.environ["PATH"]}
    assert subprocess.run(words, env=env, start_new_session=True, check=False).returncode == 0


def test_what_a_killed_holder_leaves_to_us_is_the_turns_and_nothing_that_we_were_left_before(tmp_path: Path) -> None:
    """Another turn's leavings, say: they were there before the holder was."""
    script = """
import signal, subprocess, sys, time
from pathlib import Path
from agent_mailer.process.handle import identify, reap, send
from agent_mailer.process.holder import start_behind_gate
from agent_mailer.process.tree import members
from agent_mailer.processes import children, inherit_orphans
folder, known = Path(sys.argv[1]), {}

def there(name):
    while not (folder / name).exists():
        time.sleep(0.005)
    known[name] = identify(int((folder / name).read_text()))

def asleep(name):
    return f"/bin/sh -c 'echo $$ >{name}.new; mv {name}.new {name}; exec sleep 600'"

inherit_orphans()
try:
    subprocess.run(["/bin/sh", "-c", f"env -i setsid {asleep('before')} &"], cwd=folder, check=True)
    there("before")
    while True:
        with subprocess.Popen(["/bin/true"]) as later:
            if identify(later.pid).started > known["before"].started:
                break
    argv = ["/bin/sh", "-c", f"(env -i setsid {asleep('daemon')} &); exec {asleep('agent')}"]
    gated = start_behind_gate(argv, env={"PATH": "/usr/bin:/bin"}, cwd=folder, turn_dir=folder, turn_id="turn-left")
    gated.release()
    there("daemon")
    there("agent")
    send(gated.identity, signal.SIGKILL)
    while not {one.pid for one in known.values()} <= children():
        time.sleep(0.005)
    reap(gated.identity, block=True)
    found = members("turn-left", gated.identity)
    assert set(found) == {known["daemon"], known["agent"]}, (found, known)
finally:
    for one in known.values():
        send(one, signal.SIGKILL)
"""
    (tmp_path / "prompt.md").write_text("the prompt\n")
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 0
