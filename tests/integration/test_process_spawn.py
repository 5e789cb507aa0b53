"""How a holder is started that inherits orphans, by both ways: Perl asks for it, or a copy of us does."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
import uuid
from pathlib import Path

import pytest
from tests.desk import said_in, until

from agent_mailer.process import handle
from agent_mailer.process.handle import identify, is_alive, reap
from agent_mailer.process.holder import start_behind_gate
from agent_mailer.process.tree import end_tree
from agent_mailer.processes import read_stat

WAYS = {"by perl": {}, "by a copy": {"LANG": "C", "PERL5OPT": "-Mnowhere"}}
"""Perl obeys what is meant for the agent's own Perl: then it is not asked."""

LEAVES_AN_ORPHAN = """
import os, sys, time
if os.fork():
    os.wait()
    print(sorted(os.listdir("/proc/self/fd")), flush=True)
    print(next(line for line in open("/proc/self/status") if line.startswith("SigIgn")), flush=True)
    print(next(line for line in open("/proc/self/status") if line.startswith("SigBlk")), flush=True)
    time.sleep(600)
os.setsid()
between = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == between:  # only then it is an orphan
    time.sleep(0.001)
with open(sys.argv[1] + ".new", "w") as told:
    told.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
os.execve("/bin/sleep", ["sleep", "600"], {})
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nothing else knows the means")
@pytest.mark.parametrize("way", WAYS)
def test_an_orphan_stays_below_its_holder(tmp_path: Path, way: str) -> None:
    turn_id, orphan = f"turn-{uuid.uuid4().hex}", tmp_path / "orphan"
    (tmp_path / "prompt.md").write_text("the prompt\n")
    env = {"PATH": "/usr/bin:/bin", **WAYS[way]}
    argv = [sys.executable, "-c", LEAVES_AN_ORPHAN, str(orphan)]
    gated = start_behind_gate(argv, env=env, cwd=tmp_path, turn_dir=tmp_path, turn_id=turn_id)
    supervised = gated.release()
    try:
        pid = int(said_in(orphan, "the orphan"))
        left = identify(pid)
        found = read_stat(pid)
        assert found is not None
        assert found.parent == gated.identity.pid
        assert found.session != gated.identity.pid
        until(lambda: "SigBlk" in (tmp_path / "stdout").read_text(), "what it says of itself")
    finally:
        report = asyncio.run(end_tree(turn_id, gated.identity, grace=0.2, first_signal=signal.SIGTERM))
        asyncio.run(supervised.wait_ended())
    assert not report.survivors
    assert left is not None
    assert not is_alive(left)
    fds, ignored, blocked = filter(None, (tmp_path / "stdout").read_text().splitlines())
    assert json.loads(fds.replace("'", '"')) == ["0", "1", "2", "3"]
    # Python itself ignores two; 32 and 33 are the C library's own.
    ours = {n for n in signal.valid_signals() if int(ignored.split()[1], 16) >> (n - 1) & 1}
    assert ours == {signal.SIGPIPE, signal.SIGXFSZ}
    assert int(blocked.split()[1], 16) == 0


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_executed_says_why(tmp_path: Path, way: str) -> None:
    (tmp_path / "no program").write_text("")
    reading, told = os.pipe()
    high = os.dup2(told, 50, inheritable=False)
    pid = handle.spawn([str(tmp_path / "no program")], WAYS[way], {6: high}, high)
    identity = identify(pid)
    for fd in (told, high):
        os.close(fd)
    word = os.read(reading, 16)
    os.close(reading)
    if identity is not None:
        reap(identity, block=True)
    why = handle.why_unstarted(word)
    assert why is not None
    assert why.errno == errno.EACCES


@pytest.mark.skipif(not Path("/usr/bin/perl").exists(), reason="no Perl here")
def test_perl_is_proved_before_it_is_relied_on() -> None:
    assert handle._by_perl()
