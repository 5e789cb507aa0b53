"""Which first line is an answer, and whose counts."""

from __future__ import annotations

import pytest

from agent_mailer.state.approvals import Verdict
from agent_mailer.watch.answering import Said, said_in
from agent_mailer.watch.guards.who import WhoPolicy

CODE = "K7QF2MXD"
TOKEN = "aB-_" + "x" * 39


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("allow K7QF-2MXD", Said(Verdict.ALLOW, CODE)),
        ("allow k7qf 2mxd\nthank you", Said(Verdict.ALLOW, CODE)),
        ("allow K7QF-2MXD\r\n> quoted", Said(Verdict.ALLOW, CODE)),
        ("allow always k7qf2mxd", Said(Verdict.ALLOW, CODE, always=True)),
        ("deny K7QF-2MXD", Said(Verdict.DENY, CODE)),
        ("deny K7QF 2MXD not on\ta Friday", Said(Verdict.DENY, CODE, reason="not on a Friday")),
        ("deny K7QF2MXD \x1b[31mno", Said(Verdict.DENY, CODE, reason="\\x1b[31mno")),
        ("allow everyone", Said(Verdict.ALLOW, "EVERY0NE", sure=False)),
        (f"allow link {TOKEN}", Said(Verdict.ALLOW, "", token=TOKEN)),
        (f"deny link {TOKEN} not  now", Said(Verdict.DENY, "", reason="not now", token=TOKEN)),
        (f"allow link {TOKEN[1:]}", None),
        (f"allow link {TOKEN}x", None),
        (f"allow always link {TOKEN}", None),
        ("Allow K7QF-2MXD", None),
        ("ALLOW K7QF-2MXD", None),
        ("allow K7QF-2MXD please", None),
        ("allow always", None),
        ("allow", None),
        ("allow K7QF-2MX", None),
        ("allow K7QF-2MXDD", None),
        ("allow K7QF-2MXÜ", None),
        ("deny this and that", None),
        (" allow K7QF-2MXD", None),
        ("> allow K7QF-2MXD", None),
        ("\nallow K7QF-2MXD", None),
        ("Yes.\nallow K7QF-2MXD", None),
        ("On Monday coder wrote:\n\nallow K7QF-2MXD", None),
        ("", None),
    ],
)
def test_only_the_very_first_line_answers_and_says_nothing_else(body: str, said: Said | None) -> None:
    assert said_in(body) == said


WHO = WhoPolicy(
    people=("user", "ann", "planner"), address="coder", agents=frozenset({"planner"}), vouched=frozenset({"boss@x"})
)


@pytest.mark.parametrize(
    ("sender", "vouched", "hidden", "counts"),
    [
        ("user", False, True, True),
        ("ann", False, True, True),
        ("ann", False, False, False),
        ("planner", False, True, False),
        ("coder", False, True, False),
        ("stranger", False, True, False),
        ("boss@x", True, False, True),
        ("ann", True, True, False),
    ],
)
def test_whose_answer_counts(sender: str, *, vouched: bool, hidden: bool, counts: bool) -> None:
    assert WHO.may_answer(sender, vouched=vouched, hidden=hidden) is counts


@pytest.mark.parametrize(
    ("sender", "vouched", "counts"),
    [("ann", True, True), ("ann", False, False), ("coder", True, False), ("planner", True, False), ("", True, False)],
)
def test_whose_answer_about_his_own_message_counts(sender: str, *, vouched: bool, counts: bool) -> None:
    assert WHO.may_answer_own(sender, vouched=vouched) is counts
