"""AGENT.md: what counts as identity, and what happens where it is another's."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent_mailer.errors import ConfigFault
from agent_mailer.identity import parse_identity, read_identity, require_agreement

GENERATED = """# Agent Identity

- **Name**: coder
- **Role**: writes code
- **Address**: coder@ann.amp.linkyun.co
- **Agent ID**: `0d5e`
- **Broker URL**: http://localhost:9800

## 身份提示词 (System Prompt)

Name: somebody else
- **Address**: prompt@example

## 邮箱协议

- **Agent ID**: in an example

```
Address: fenced@example
```
"""


def test_the_generated_file() -> None:
    assert parse_identity(GENERATED) == {
        "agent_name": "coder",
        "address": "coder@ann.amp.linkyun.co",
        "agent_id": "0d5e",
        "broker_url": "http://localhost:9800",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("Name: a", {"agent_name": "a"}),
        ("agent_id:7", {"agent_id": "7"}),
        ("* **AGENT NAME** :  a  ", {"agent_name": "a"}),
        ("Name: first\nName: second", {"agent_name": "first"}),
        ("Name:\nName: later", {}),
        ("Address: `a`", {"address": "a"}),
        ("```\nName: fenced\n```\nName: after", {"agent_name": "after"}),
        ("# API\nName: a\n# Identity\nName: b", {"agent_name": "b"}),
        ("Nickname: a\n- **Rank**: b\nplain words: and more", {}),
        ("Name: a\r\nAddress: b\r\n", {"agent_name": "a", "address": "b"}),
        ("Name: " + "x" * 2000, {}),
    ],
)
def test_lines_that_count(text: str, found: dict[str, str]) -> None:
    assert parse_identity(text) == found


def test_a_hostile_file_costs_no_time() -> None:
    started = time.process_time()
    parse_identity("a " * 500_000)
    parse_identity("- **" + "*" * 500_000)
    parse_identity("#" * 500_000)
    assert time.process_time() - started < 2.0


def test_soul_stands_in_for_a_missing_agent_file(tmp_path: Path) -> None:
    assert read_identity(tmp_path) == {}
    (tmp_path / "SOUL.md").write_text("Name: soul")
    assert read_identity(tmp_path) == {"agent_name": "soul"}
    (tmp_path / "AGENT.md").write_text("Name: agent")
    assert read_identity(tmp_path) == {"agent_name": "agent"}


def test_what_is_no_file_is_passed_over_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "AGENT.md")
    (tmp_path / "SOUL.md").mkdir()
    assert read_identity(tmp_path) == {}


def test_bytes_that_are_no_text_and_a_huge_file(tmp_path: Path) -> None:
    (tmp_path / "AGENT.md").write_bytes(b"\xff\xfe\nName: a\n" + b"\0" * 3_000_000 + b"\nAddress: late\n")
    assert read_identity(tmp_path) == {"agent_name": "a"}


@pytest.mark.parametrize(
    ("text", "disagrees"),
    [
        ("Address: coder", None),
        ("Address: other", "address"),
        ("Agent ID: 8", "agent_id"),
        ("Name: else", "agent_name"),
        ("Role: whatever", None),
        ("Broker URL: http://elsewhere", None),
    ],
)
def test_only_another_agent_is_a_mismatch(tmp_path: Path, text: str, disagrees: str | None) -> None:
    (tmp_path / "AGENT.md").write_text(text)
    ours = {"agent_id": "7", "address": "coder", "agent_name": "coder"}
    if disagrees is None:
        require_agreement(tmp_path, ours)
        return
    with pytest.raises(ConfigFault) as caught:
        require_agreement(tmp_path, ours)
    assert f"{tmp_path / 'AGENT.md'} says {disagrees} " in caught.value.message
    assert "--ignore-agent-md-mismatch" in caught.value.fix


def test_what_is_not_configured_cannot_disagree(tmp_path: Path) -> None:
    (tmp_path / "AGENT.md").write_text("Agent ID: 8")
    require_agreement(tmp_path, {"agent_id": "", "address": "coder"})


def test_the_file_that_is_meant_is_named_and_its_words_are_harmless(tmp_path: Path) -> None:
    (tmp_path / "SOUL.md").write_text("Address: \x1b[2Jother")
    with pytest.raises(ConfigFault) as caught:
        require_agreement(tmp_path, {"address": "coder"})
    assert "SOUL.md says address" in caught.value.message
    assert caught.value.message.isprintable()
