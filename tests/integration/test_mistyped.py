"""A key or a value with a typing error is named first, by whoever looks, and is never trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomlkit
from tests.desk import Desk
from tests.typed import Typed, type_in


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def once(desk: Desk) -> Typed:
    return type_in(desk.base, "watch", "--once", "--no-interactive", "-C", desk.workdir)


def mistype(desk: Desk, before: str, after: str) -> int:
    """Write one word of the configuration otherwise; returns in which line."""
    path = desk.state / "config.toml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    return text[: text.index(before)].count("\n") + 1


def test_a_mistyped_key_is_what_everybody_names_and_nobody_trusts(desk: Desk) -> None:
    assert once(desk).status == 0
    line = mistype(desk, "runtime =", "runtmie =")
    told = f"config.toml, line {line}: nothing here knows the key runtmie; did you mean runtime?"
    front = type_in(desk.base, env={"COLUMNS": "400"})
    needs = front.out.partition("Needs you")[2]
    assert told in needs
    assert needs.index("agent-mailer config edit") < needs.index("agent-mailer watch")
    assert "not as it was trusted" not in front.out
    shown = type_in(desk.base, "status", "-C", desk.workdir)
    assert told in shown.out
    assert "config trust" not in shown.out
    checked = type_in(desk.base, "doctor", "-C", desk.workdir)
    assert told in checked.out
    assert "not as it was trusted" not in checked.out
    refused = type_in(desk.base, "config", "trust", "--yes", "-C", desk.workdir)
    assert (refused.status, told in refused.err, "fix: agent-mailer config edit" in refused.err) == (78, True, True)
    # Unattended the trusted value goes on, and the one warning is about the key.
    went_on = once(desk)
    assert (went_on.status, told in went_on.err) == (0, True)


def test_a_configuration_without_a_runtime_is_not_trusted(desk: Desk) -> None:
    assert once(desk).status == 0
    path = desk.state / "config.toml"
    text = path.read_text()
    path.write_text("\n".join(line for line in text.split("\n") if not line.startswith("runtime")))
    refused = type_in(desk.base, "config", "trust", "--yes", "-C", desk.workdir)
    assert (refused.status, "missing runtime" in refused.err) == (78, True)
    # The rest of the file says which one is meant.
    assert "fix: agent-mailer config set runtime command" in refused.err
    path.write_text(text)
    assert type_in(desk.base, "config", "trust", "--yes", "-C", desk.workdir).status == 0


def test_a_value_that_cannot_be_is_one_fault_with_what_was_meant_and_once_mended_nothing_is_left(desk: Desk) -> None:
    assert once(desk).status == 0
    line = mistype(desk, 'permission_mode = "', 'permission_mode = "x')
    wrong = tomlkit.parse((desk.state / "config.toml").read_text())["permission_mode"]
    told = f"config.toml, line {line}: permission_mode: '{wrong}' is none of: acceptEdits, bypassPermissions, plan"
    checked = type_in(desk.base, "doctor", "-C", desk.workdir)
    assert told in checked.out
    assert "did you mean" in checked.out
    assert "trust" not in checked.out
    other = type_in(desk.base, "config", "set", "max_retries", "4", "-C", desk.workdir)
    assert (other.status, "not trusted" in other.err) == (0, False)
    mended = type_in(desk.base, "config", "set", "permission_mode", str(wrong)[1:], "-C", desk.workdir)
    assert (mended.status, "not trusted" in mended.err) == (0, False)
    assert "as trusted" in type_in(desk.base, "status", "-C", desk.workdir).out
