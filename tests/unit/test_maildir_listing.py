"""What waits in a folder of mail, from one look to the next."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from tests.refusing import unreadable

from agent_mailer.mailbox.maildir.listing import Waiting
from agent_mailer.mailbox.port import MailboxUnavailable


def put(folder: Path, name: str) -> None:
    header = {"schema": 1, "id": name, "from": "bob", "to": ["alice"], "thread": "t", "created": "2026-08-22T10:00:00Z"}
    (folder / f"{name}.md").write_text(f"---json\n{json.dumps(header)}\n---\nwork\n")


def test_after_a_look_that_was_broken_off_the_folder_is_listed_anew(tmp_path: Path) -> None:
    """What had changed then is told once."""
    waiting = Waiting(tmp_path, 100)
    put(tmp_path, "m1")
    list(waiting.look(None, lambda _: True))
    put(tmp_path, "m2")
    with unreadable("m2.md", errno.EMFILE), pytest.raises(MailboxUnavailable):
        list(waiting.look({"m2.md"}, lambda _: True))
    list(waiting.look(set(), lambda _: True))
    assert sorted(one.id for one in waiting.first(10, ()).envelopes) == ["m1", "m2"]


def test_what_comes_while_more_waits_than_is_looked_at_has_its_turn(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path, 1)
    for name in ("m1", "m2"):
        put(tmp_path, name)
    list(waiting.look(None, lambda _: True))
    put(tmp_path, "m3")
    list(waiting.look({"m3.md"}, lambda _: True))
    found = []
    for name in ("m1", "m2", "m3"):
        found += [one.id for one in waiting.first(10, ()).envelopes]
        (tmp_path / f"{name}.md").unlink()
        list(waiting.look({f"{name}.md"}, lambda _: True))
    assert found == ["m1", "m2", "m3"]


def test_all_that_went_while_nobody_was_told_of_it_is_gone(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path, 10)
    for name in ("m1", "m2", "m3", "m4"):
        put(tmp_path, name)
    list(waiting.look(None, lambda _: True))
    for name in ("m1", "m2", "m4"):
        (tmp_path / f"{name}.md").unlink()
    list(waiting.look(None, lambda _: True))
    assert [one.id for one in waiting.first(10, ()).envelopes] == ["m3"]


def test_all_that_is_put_beside_is_left_out_by_whatever_name_and_comes_back(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path, 10)
    for name in ("m1", "m2", "m3"):
        put(tmp_path, name)
    (tmp_path / "m2.md").rename(tmp_path / "other.md")
    (tmp_path / "third.md").write_bytes((tmp_path / "other.md").read_bytes())
    list(waiting.look(None, lambda _: True))
    assert [one.id for one in waiting.first(10, {"m1", "m2"}).envelopes] == ["m3"]
    assert [one.id for one in waiting.first(10, ()).envelopes] == ["m1", "m2", "m2", "m3"]
    assert [one.id for one in waiting.first(10, {"m3"}).envelopes] == ["m1", "m2", "m2"]
