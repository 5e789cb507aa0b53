"""What `init` writes into documents: ours between our marks, everything else byte for byte."""

from __future__ import annotations

import pytest

from agent_mailer.identity import parse_identity
from agent_mailer.setup.documents import (
    ADAPTERS,
    BEGIN,
    END,
    MAIL,
    Self,
    adapter_block,
    block_of,
    leads_to,
    new_identity_file,
    protocol_titles,
    with_block,
    without_protocol,
)

ME = Self("coder", "coder@ann.x", "id-1", "http://x", "role\n- **Agent ID**: other", "Do.\n\n## Protocol of work\n\nx")


@pytest.mark.parametrize("text", ["", "a", "a\n", "a\n\n", "a\r\nb\r\n", "a\r\nb"])
def test_a_block_is_added_at_the_end_and_changed_in_place(text: str) -> None:
    once = with_block(text, "one\n")
    assert once.startswith(text)
    assert with_block(once, "one") == once
    twice = with_block(once + "after", "two\nlines")
    assert twice.startswith(text)
    assert twice.endswith("after")
    assert "one" not in twice
    assert (block_of(twice) or "").split() == ["two", "lines"]
    assert ("\n" in once.replace("\r\n", "")) is ("\r\n" not in text)


def test_what_stands_between_two_blocks_is_a_persons_own_text() -> None:
    first, second = (f"{BEGIN}\n{word}\n{END}\n" for word in ("one", "two"))
    assert with_block(f"{first}mine\n{second}", "new") == f"{BEGIN}\nnew\n{END}\nmine\n{second}"


def test_a_mark_without_its_end_is_a_persons_own_text() -> None:
    text = f"a {BEGIN} b\n"
    assert with_block(text, "x").startswith(text)
    assert block_of(f"{END}{BEGIN}") is None


@pytest.mark.parametrize(
    ("heading", "found"),
    [
        ("## 邮箱协议 (Mail Protocol)", True),
        ("## Agent Mailer Protocol", True),
        ("### mail protocol ", True),
        ("## Auto-watch (Claude Code only)", True),
        ("## Protocol of reviews", False),
        ("## Mailing", False),
        ("##Mail Protocol", False),
        ("# Mail Protocol", False),
        ("text about the Mail Protocol", False),
    ],
)
def test_which_sections_are_meant(heading: str, found: bool) -> None:
    assert bool(protocol_titles(f"{heading}\n\nx\n")) is found


def test_sections_with_all_below_them_go_and_nothing_else() -> None:
    text = (
        "# A\n\nfirst\n\n## Mail Protocol\n\n### Auth\n```sh\n# no heading\n## nor this\n```\n### Inbox\nx\n\n"
        "## Mine\n~~~\n## Mail Protocol\n~~~\nkept\n\n## Auto-watch\nlast"
    )
    after = without_protocol(text)
    assert after == (f"# A\n\nfirst\n\n{BEGIN}\n{MAIL}{END}\n\n## Mine\n~~~\n## Mail Protocol\n~~~\nkept\n\n")
    assert without_protocol(after) == after
    assert without_protocol("nothing here\n") == "nothing here\n"


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_section_ends_with_the_next_heading_of_its_rank_or_of_a_higher_one(depth: int) -> None:
    head, section, below = "# A\n\nfirst\n\n", "### Mail Protocol\ncurl\n\n", f"{'#' * depth} Mine\nkept\n"
    after = without_protocol(head + section + below)
    assert after == f"{head}{BEGIN}\n{MAIL}{END}\n" + (f"\n{below}" if depth <= 3 else "")


@pytest.mark.parametrize(("fence", "within"), [("~~~", "```"), ("```", "~~~"), ("~~~md", "```sh")])
def test_a_fence_ends_with_its_own_kind_alone(fence: str, within: str) -> None:
    shown = f"{fence}\n{within}\n## Mail Protocol\nan example\n{fence[:3]}\n\n"
    text = f"# A\n\n{shown}## Mail Protocol\ncurl\n\n## Mine\n{fence}\n{within}\n{fence[:3]}\nkept\n"
    assert without_protocol(text) == text.replace("## Mail Protocol\ncurl\n\n", f"{BEGIN}\n{MAIL}{END}\n\n")


def test_a_section_ends_where_our_block_begins() -> None:
    text = f"# A\n\n## Mail Protocol\nx\n\n{BEGIN}\nours\n{END}\n"
    assert without_protocol(text) == f"# A\n\n{BEGIN}\nours\n{END}\n"


def test_a_new_identity_file_names_the_agent_whatever_the_broker_says() -> None:
    made = new_identity_file(ME, "")
    assert parse_identity(made) == {
        "agent_name": "coder",
        "address": "coder@ann.x",
        "agent_id": "id-1",
        "broker_url": "http://x",
    }
    assert "## Protocol of work\n\nx\n" in made
    told = new_identity_file(ME, "# Agent Identity\n\n- **Name**: coder\n\n## Mail Protocol\ncurl")
    assert "curl\n" not in told
    assert told.count(BEGIN) == 1


@pytest.mark.parametrize(
    ("text", "leads"),
    [
        ("@AGENT.md\n", True),
        ("x\n  @import AGENT.md", True),
        ("@./AGENT.md", True),
        ("see @AGENT.md", False),
        ("", False),
    ],
)
def test_who_leads_to_the_identity_file(text: str, leads: bool) -> None:
    assert leads_to(text, "AGENT.md") is leads


def test_only_claude_imports() -> None:
    assert {name for name, adapter in ADAPTERS.items() if "@" in adapter_block(adapter)} == {"claude"}
