"""A program that is talked with: its lines are whole, and one that is too long is dropped, however it comes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_mailer.process import talking
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


def test_what_is_said_is_taken_whole_however_large_before_its_input_ends(tmp_path: Path) -> None:
    """A prompt is larger than a pipe holds, and the other end begins to read when it likes."""
    script = "until [ -e go ]; do sleep 0.01; done; wc -c"
    talk = Talking(("/bin/sh", "-c", script), env=dict(os.environ), cwd=tmp_path, longest=LONGEST)
    woken, waker = os.pipe()
    try:
        talk.say(b"x" * 1_000_000 + b"\n")
        talk.hang_up()
        (tmp_path / "go").touch()
        heard = []
        for _ in range(1000):
            heard += talk.wait(0.03, woken)
            if not talk.listening:
                break
    finally:
        talk.end(1.0)
        os.close(woken)
        os.close(waker)
    assert heard == [b"1000001"]


def test_one_that_stays_is_asked_and_then_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stays = "while :; do read x || sleep 0.02; done"
    for script, asked, status in (
        ("exec sleep 60", 30.0, 128 + 15),
        (f"trap 'exit 5' TERM; {stays}", 30.0, 5),
        (f"trap '' TERM; {stays}", 0.1, 128 + 9),
    ):
        monkeypatch.setattr(talking, "_ASKED", asked)
        talk = Talking(("/bin/sh", "-c", script), env=dict(os.environ), cwd=tmp_path, longest=LONGEST)
        assert talk.end(0.2) == status


def test_one_that_says_much_as_it_leaves_is_not_kept_from_leaving(tmp_path: Path) -> None:
    script = "cat; head -c 1000000 /dev/zero; exit 4"
    talk = Talking(("/bin/sh", "-c", script), env=dict(os.environ), cwd=tmp_path, longest=LONGEST)
    assert talk.end(30.0) == 4


def test_one_that_listens_no_more_may_still_speak(tmp_path: Path) -> None:
    script = "exec 0<&-; echo one; until [ -e go ]; do sleep 0.01; done; echo two"
    talk = Talking(("/bin/sh", "-c", script), env=dict(os.environ), cwd=tmp_path, longest=LONGEST)
    woken, waker = os.pipe()
    try:
        heard = talk.wait(None, woken)
        talk.say(b"is anybody there?\n")
        (tmp_path / "go").touch()
        while talk.listening:
            heard += talk.wait(None, woken)
    finally:
        talk.end(1.0)
        os.close(woken)
        os.close(waker)
    assert heard == [b"one", b"two"]
