"""`runtime = "infiniti"`: the prompt as one argument, whatever stands in it; plain text back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.desk import Desk, outcomes
from tests.typed import type_in

PROGRAM = """#!/bin/sh
printf '%s\\n' "$#" "$1" > "$0.words"
printf '%s' "$2" > "$0.prompt"
cat > "$0.stdin"
echo "answer of infiniti"
exit "$(cat "$0.exit" 2>/dev/null || echo 0)"
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.settings.pop("command")
    desk.configure(runtime="infiniti", infiniti_command="./my infiniti")
    program = desk.workdir / "my infiniti"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return desk


def test_the_prompt_is_one_argument_and_the_output_is_the_answer(desk: Desk) -> None:
    (desk.state / "templates").mkdir()
    (desk.state / "templates" / "fresh.md").write_text('it\'s "quoted" `id` $$(id) $$HOME \\\\ *\n--flag\n')
    desk.send()
    assert outcomes(desk.once()) == ["done"]
    assert (desk.workdir / "my infiniti.words").read_text() == "2\ncli\n"
    prompt = (desk.workdir / "my infiniti.prompt").read_text()
    assert prompt.startswith("Message: ")
    assert prompt.endswith('it\'s "quoted" `id` $(id) $HOME \\\\ *\n--flag')
    assert (desk.workdir / "my infiniti.stdin").read_text() == ""
    assert desk.inbox()[0].body == "answer of infiniti\n"


def test_another_exit_status_is_a_failure(desk: Desk) -> None:
    (desk.workdir / "my infiniti.exit").write_text("3")
    desk.send()
    assert outcomes(desk.once()) == ["failed"]


def test_a_missing_program_pauses_and_names_its_key(desk: Desk) -> None:
    desk.configure(infiniti_command="no-such-program")
    desk.send()
    assert outcomes(desk.once()) == ["unavailable"]
    done = type_in(desk.workdir, "verify")
    assert done.status == 69
    assert "agent-mailer config set infiniti_command" in done.out


def test_its_program_can_be_chosen_everywhere(desk: Desk) -> None:
    verified = type_in(desk.workdir, "verify", "--json")
    assert verified.status == 0, verified
    (runtime,) = (check for check in verified.json["checks"] if check["name"] == "runtime")
    assert runtime["looked_at"] == str(desk.workdir / "my infiniti")
    shown = type_in(desk.workdir, "config", "show", "--json", env={"AGENT_MAILER_INFINITI_COMMAND": "other"})
    assert shown.json["keys"]["infiniti_command"] == {"value": "other", "source": "environment"}
    assert type_in(desk.workdir, "config", "set", "infiniti_command", "third").status == 0
    assert os.access(desk.workdir / "my infiniti", os.X_OK)
