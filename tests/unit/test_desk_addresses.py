"""Whom a person can write to from a page: a name leads to one mailbox, and a bare one to the only one called so."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.desk import Desk

from agent_mailer.console.own.port import Letter
from agent_mailer.desk.addresses import Address, addresses_of
from agent_mailer.desk.here import AgentsHere
from agent_mailer.desk.mail import MailHere, _meant
from agent_mailer.errors import UsageFault
from agent_mailer.mailbox.maildir.layout import make_mailbox


def desk_of(base: Path, address: str) -> Desk:
    """In whose mailbox are a coder, a planner and the person, one of them an agent of ours."""
    desk = Desk(base)
    desk.configure(address=address)
    return desk


def test_a_name_that_several_have_is_shown_with_its_folder_ours_or_not_and_bare_it_is_refused(tmp_path: Path) -> None:
    shop, other = desk_of(tmp_path / "shop", "coder"), desk_of(tmp_path / "other", "planner")
    make_mailbox(shop.disk, shop.root, "tester")
    for desk in (shop, other):
        make_mailbox(desk.disk, desk.root, "reviewer")
    known = addresses_of([shop.place(), other.place()])
    assert known == {
        "coder@coder": Address("coder", shop.root, str(shop.workdir)),
        "coder@other": Address("coder", other.root),
        "planner@shop": Address("planner", shop.root),
        "planner@coder": Address("planner", other.root, str(other.workdir)),
        "reviewer@shop": Address("reviewer", shop.root),
        "reviewer@other": Address("reviewer", other.root),
        "tester": Address("tester", shop.root),
    }
    for name in ("coder", "planner", "reviewer"):
        with pytest.raises(UsageFault):
            _meant([name], known, None)
        # In an answer it is whoever is called so where the question came from.
        for desk in (shop, other):
            assert [(one.handle, one.root) for one in _meant([name], known, desk.root)] == [(name, desk.root)]
    assert _meant(["tester"], known, None) == [known["tester"]]


def test_agents_of_one_name_in_folders_of_one_name_are_shown_with_the_whole_path(tmp_path: Path) -> None:
    desks = [desk_of(tmp_path / name, "coder") for name in ("shop", "other")]
    known = addresses_of(desk.place() for desk in desks)
    for desk in desks:
        assert known[f"coder@{desk.workdir}"] == Address("coder", desk.root, str(desk.workdir))
    assert "coder" not in known


@pytest.mark.parametrize("to", [("coder",), ("planner",), ("coder", "planner"), ("planner", "coder")])
def test_an_answer_goes_to_whom_it_names_and_to_nobody_else(tmp_path: Path, to: tuple[str, ...]) -> None:
    """On the page of an answer its recipients can be changed."""
    desk = desk_of(tmp_path, "coder")
    asked = desk.send("Which?", sender="coder", to="user", thread="th-which")
    MailHere(AgentsHere([desk.workdir]).looking).send(Letter(to, "Re: task", "This.", "reply", asked))
    answers = {name: [one for one in desk.inbox(name) if one.refs == (asked,)] for name in ("coder", "planner")}
    assert {name for name, found in answers.items() if found} == set(to)
    [told] = {(one.body.strip(), one.envelope.thread) for found in answers.values() for one in found}
    assert told == ("This.", "th-which")
