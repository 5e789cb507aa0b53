"""The first `init` of a folder: what of an earlier agent counts, whose name none can have, and what mends a fault."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.integration.test_cli_setup import FLAGS, agent, on_terminal, values_of, workdir
from tests.typed import type_in

__all__ = ["agent", "workdir"]


def test_who_sets_up_anew_what_he_has_deleted_begins_with_nothing_of_it(agent: Path) -> None:
    for key, value in (("mailbox", "relay"), ("broker_url", "http://127.0.0.1:1")):
        assert type_in(agent, "config", "set", key, value).status == 0
    shutil.rmtree(agent / ".agent-mailer")
    done = type_in(agent, "init", *FLAGS, "--maildir-root", ".mail")
    assert done.status == 0, done
    assert not {"mailbox", "broker_url"} & set(values_of(agent))


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (("--address", "a b"), "the same command again, with --address a-b"),
        (("--address", "cap:review"), "the same command again, with --address coder-1"),
        (("--broker-url", "http://127.0.0.1:1"), "is the server running? then the same command again"),
        (("--broker-url", "ftp://x"), "the same command again, with --broker-url http://127.0.0.1:PORT"),
    ],
)
def test_before_there_is_an_agent_what_mends_init_is_init(workdir: Path, words: tuple[str, ...], mend: str) -> None:
    """`config set` and `verify` have nothing to work on yet."""
    refused = type_in(workdir, "init", *FLAGS, "--mailbox", "relay", *words)
    assert refused.status in (69, 78)
    assert f"  fix: {mend}\n" in refused.err
    assert not (workdir / ".agent-mailer").exists()


def test_what_was_given_empty_is_missing_and_what_mends_it_says_so(workdir: Path) -> None:
    words = ("--mailbox", "relay", *FLAGS[2:], "--address", "")
    refused = type_in(workdir, "init", *words)
    assert refused.status == 78
    assert "fix: agent-mailer init --mailbox relay --address NAME --runtime command --command 'cat -'" in refused.err


@pytest.mark.parametrize(
    ("mailbox", "name"), [("maildir", "user"), ("relay", "the-user"), ("mcp_agent_mail", "the-user")]
)
def test_no_agent_has_the_name_of_who_writes_at_the_terminal(workdir: Path, mailbox: str, name: str) -> None:
    """It would take his mail, and answer itself."""
    words = () if mailbox == "maildir" else ("--mailbox", mailbox, "--broker-url", "http://127.0.0.1:1")
    refused = type_in(workdir, "init", *FLAGS, *words, "--address", name)
    assert refused.status == 2
    assert f"{name} is who writes here at the terminal" in refused.err
    assert "fix: the same command again, with --address coder" in refused.err
    assert not (workdir / ".agent-mailer").exists()


def test_an_agent_does_not_become_who_writes_at_the_terminal(agent: Path) -> None:
    refused = type_in(agent, "config", "set", "address", "user")
    assert refused.status == 2, refused
    assert "user is who writes here at the terminal" in refused.err
    assert values_of(agent)["address"] == "coder"


def test_nor_is_it_taken_from_a_folder_or_as_an_answer(tmp_path: Path) -> None:
    folder = tmp_path / "user"
    folder.mkdir()
    status, screen = on_terminal(folder, ["init"], ["", "user", "helper", "\x03"])
    assert status == 130
    assert "[user]" not in screen
    assert "user is who writes here at the terminal" in screen
