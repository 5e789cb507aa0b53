"""As process 1 of a container, or its child: what is taken off the system, what ends it, how much time it has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agent_mailer.process import first
from agent_mailer.process.first import stopped_in_a_hurry

REAPS = """
import os, subprocess
from agent_mailer.process.first import reap_strangers
from agent_mailer.process.handle import waited_for
from agent_mailer.processes import children
ours, left = [subprocess.Popen(["/bin/sh", "-c", "exit 3"]) for _ in range(2)]
waited_for.add(ours.pid)
for one in (ours, left):
    os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
reap_strangers()
assert children() == {ours.pid}, children()
assert ours.wait() == 3, "its end is for whoever waits for it"
"""
HEEDS = """
import os, signal
from agent_mailer.process.first import heed_signals
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    pid = os.fork()
    if pid == 0:
        heed_signals()
        os.kill(os.getpid(), number)
        signal.pause()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + number
"""


LEAVES = """
import os, subprocess
from agent_mailer.process.handle import strangers
from agent_mailer.processes import inherit_orphans
left = subprocess.Popen(["/bin/sleep", "600"])
try:
    inherit_orphans()
    assert strangers() == {left.pid}, "a turn's"
    os.getpid = lambda: 1
    inherit_orphans()
    assert strangers() == set(), "what a person started in its container"
finally:
    left.kill()
    left.wait()
"""


@pytest.mark.parametrize("script", [REAPS, HEEDS, LEAVES], ids=["reaps", "heeds", "leaves"])
def test_what_it_was_left_and_what_ends_it(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("within", "parent", "env", "hurried"),
    [
        (True, 1, {}, True),
        (False, 1, {}, False),
        (True, 4711, {}, False),
        (True, 1, {"INVOCATION_ID": "of a service manager's"}, False),
    ],
)
def test_a_container_engine_leaves_little_time_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch, *, within: bool, parent: int, env: dict[str, str], hurried: bool
) -> None:
    here = os.readlink("/proc/self/ns/pid")
    monkeypatch.setattr(first, "_BOOTED_WITH", "another" if within else here)
    monkeypatch.setattr(os, "getppid", lambda: parent)
    assert stopped_in_a_hurry(env) is hurried
