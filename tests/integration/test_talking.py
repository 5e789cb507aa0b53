"""A program that is talked with: its lines are whole, and one that is too long is dropped, however it comes."""

from __future__ import annotations

import os
from pathlib import Path

from agent_mailer.process.talking import Talking

LONGEST = 300 * 1024
"""More than is read at once."""


def test_a_line_that_is_too_long_is_dropped_and_what_follows_is_heard(tmp_path: Path) -> None:
    longer = 'awk \'BEGIN { while (i++ < 200000) printf "%s", "0123456789"; print "" }\''
    whole = 'awk \'BEGIN { while (i++ < 30000) printf "%s", "0123456789"; print "" }\''
    script = f"read heard; echo one; {longer}; echo \"$heard\"; {whole}; {longer}; echo; printf 'not ended'"
    talk = Talking(("/bin/sh", "-c", script), env=dict(os.environ), cwd=tmp_path, longest=LONGEST)
    woken, waker = os.pipe()
    try:
        talk.say(b"two\n")
        heard = []
        while talk.listening:
            heard += talk.wait(None, woken)
            assert len(talk._rest) <= LONGEST
    finally:
        status = talk.end(1.0)
        os.close(woken)
        os.close(waker)
    assert heard == [b"one", b"two", b"0123456789" * 30000, b""]
    assert status == 0


def test_one_that_stays_is_asked_and_then_ended(tmp_path: Path) -> None:
    for script, status in (
        ("exec sleep 60", 128 + 15),
        ("trap 'exit 5' TERM; while :; do read x || sleep 0.05; done", 5),
    ):
        talk = Talking(("/bin/sh", "-c", script), env=dict(os.environ), cwd=tmp_path, longest=LONGEST)
        assert talk.end(0.2) == status
