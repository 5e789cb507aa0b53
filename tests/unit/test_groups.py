"""Who is meant by an address that names several, and what is for one of them alone."""

from __future__ import annotations

import pytest

from agent_mailer.errors import UsageFault
from agent_mailer.groups import for_one, spread, taken_by_one

CONTACTS = {
    "ann": ("rust", "cap:review"),
    "bob": ("tag:rust", "label:test writer"),
    "tag:odd": (),
    "hook--ci": (),
    "me": ("rust", "cap:review"),
}


@pytest.mark.parametrize(
    ("to", "found"),
    [
        (["tag:rust"], ("ann", "bob")),
        (["cap:review", "ann"], ("ann",)),
        (["label:test writer"], ("bob",)),
        (["broadcast"], ("ann", "bob", "tag:odd")),
        (["tag:odd"], ("tag:odd",)),
        (["tag:odd", "eve", "cap:review", "bob"], ("tag:odd", "eve", "ann", "bob")),
    ],
)
def test_each_member_is_meant_once_and_never_oneself(to: list[str], found: tuple[str, ...]) -> None:
    assert spread(to, CONTACTS, "me") == found


@pytest.mark.parametrize("to", ["cap:go", "label:", "tag:", "one-of:cap:review"])
def test_a_group_that_nobody_is_in_is_refused_and_one_of_it_where_all_were_meant(to: str) -> None:
    with pytest.raises(UsageFault):
        spread([to], CONTACTS, "me")


def test_what_one_of_a_group_takes_says_so_in_its_label() -> None:
    assert for_one(["one-of:cap:review"]) == (("cap:review",), ("one-of:cap:review",))
    assert for_one(["ann", "tag:rust"]) == (["ann", "tag:rust"], ())
    assert taken_by_one(("progress", "one-of:cap:review")) == "cap:review"
    assert taken_by_one(("progress",)) == ""


@pytest.mark.parametrize(
    "to", [["one-of:ann"], ["one-of:"], ["one-of:one-of:cap:x"], ["one-of:cap:x", "ann"], ["ann", "one-of:cap:x"]]
)
def test_one_of_what_is_no_group_or_beside_others_is_refused(to: list[str]) -> None:
    with pytest.raises(UsageFault):
        for_one(to)
