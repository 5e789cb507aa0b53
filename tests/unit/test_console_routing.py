"""What of a form is kept where the session of whoever was writing it has ended."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent_mailer.console.routing import KEPT_FIELDS, WRITTEN

TEMPLATES = Path(__file__).parents[2] / "src" / "agent_mailer" / "console" / "templates"
NOT_KEPT = {"need", "picture", "write"}
"""A kept answer goes as any mail, a file cannot be kept, and `write` only says that the form is to be looked at."""


def named_in(text: str) -> set[str]:
    return set(re.findall(r'<(?:input|textarea|select|button)[^>]* name="(\w+)"', text))


AN_AGENTS = (TEMPLATES / "agent_fields.html").read_text("utf-8")
FORMS = [
    pytest.param(fields, id=f"{path.stem}-{number}")
    for path in sorted(TEMPLATES.glob("*.html"))
    for number, form in enumerate(re.findall(r"<form.*?</form>", path.read_text("utf-8"), re.DOTALL))
    if not (fields := named_in(form.replace("{{ agent_fields(", AN_AGENTS))).isdisjoint(WRITTEN)
]


def test_there_are_forms_in_which_people_write() -> None:
    assert len(FORMS) > 10


@pytest.mark.parametrize("fields", FORMS)
def test_of_a_form_in_which_somebody_writes_every_field_is_kept(fields: set[str]) -> None:
    """Without one of them it would do something else: a key for one agent would be for all."""
    assert fields - NOT_KEPT <= set(KEPT_FIELDS)
