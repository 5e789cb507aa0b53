"""How an error reaches people and programs, also where nobody can take what is printed."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from agent_mailer.cli.ending import status_of
from agent_mailer.cli.terminal import printing
from agent_mailer.cli.terminal.printing import done, json_out, say
from agent_mailer.cli.terminal.streams import name_the_output
from agent_mailer.errors import ConfigFault, UnavailableFault, UsageFault


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """stdout is a disk without room."""
    with Path("/dev/full").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        name_the_output()
        yield


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """stdout is a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        yield


def typed(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["agent-mailer", *words.split()])


def refused() -> object:
    raise ConfigFault("no", "it is not there", "agent-mailer init")


@pytest.mark.parametrize("output", ["full", "unread"])
def test_an_error_as_json_that_nobody_takes_is_told_on_stderr(
    output: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    request.getfixturevalue(output)
    typed(monkeypatch, "turns show x --json")
    assert status_of(refused) == 78
    assert capfd.readouterr().err == "error: it is not there\n  fix: agent-mailer init\n"


@pytest.mark.parametrize("words", ["send coder x --wait 9", "send coder x --wait 9 --json"])
def test_what_was_done_before_an_error_is_said_with_it(
    words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever takes it for not sent would send it again."""
    monkeypatch.setattr(printing, "_done", [])
    typed(monkeypatch, words)

    def sent_then_cut() -> object:
        done("sent as m-1")
        raise UnavailableFault("unreachable", "the broker is away", "agent-mailer verify")

    assert status_of(sent_then_cut) == 69
    whole = "sent as m-1; after that: the broker is away"
    out, err = capfd.readouterr()
    if "--json" in words:
        error = {"code": "unreachable", "message": whole, "fix": "agent-mailer verify"}
        assert (json.loads(out), err) == ({"error": error}, "")
    else:
        assert (out, err) == ("", f"error: {whole}\n  fix: agent-mailer verify\n")


@pytest.mark.parametrize("says", [lambda: say("a line"), lambda: json_out([1]), lambda: typer.echo("help")])
@pytest.mark.parametrize("words", ["status", "status --json"])
def test_what_cannot_be_printed_is_said_with_what_to_do(
    says: Callable[[], None],
    words: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    request.getfixturevalue("full")  # as late as that: what is captured begins anew with the test
    typed(monkeypatch, words)
    assert status_of(says) == 1
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "error: what this prints cannot be written: No space left on device"
    assert said[1].startswith("  fix: print it elsewhere")


def test_a_file_that_the_system_refuses_is_named_with_a_look_at_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "status")

    def missing() -> object:
        raise OSError(errno.ENOENT, "No such file or directory", "/srv/a b")

    assert status_of(missing) == 1
    assert capfd.readouterr().err == "error: /srv/a b: No such file or directory\n  fix: ls -ld /srv\n"


def test_a_wrong_command_line_has_a_second_line_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "mail reserve 'src/**' --seconds 0")

    def wrong() -> object:
        raise UsageFault("bad_number", "--seconds is a number from 1 on")

    assert status_of(wrong) == 2
    fix = "  fix: agent-mailer mail reserve --help\n"
    assert capfd.readouterr().err == f"error: --seconds is a number from 1 on\n{fix}"
