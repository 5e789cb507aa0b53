"""The agent's notes through its tools: seen as they were at the claim, written when the turn settles its message."""

from __future__ import annotations

import errno
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.desk import Desk, outcomes
from tests.refusing import ALWAYS, Refusing

from agent_mailer.events import EventName
from agent_mailer.turn_tools.folder import MAX_NOTE_BYTES

SERVER = shlex.join([sys.executable, "-m", "agent_mailer.turn_tools.mcp"])


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def script(desk: Desk, *calls: tuple[str, dict[str, object]], after: str = "echo fine") -> None:
    """The agent makes these tool calls, one server for all, and then runs `after`."""
    lines = [
        json.dumps(
            {"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        )
        for n, (name, arguments) in enumerate(calls)
    ]
    asked = desk.base / "asked.jsonl"
    asked.write_text("".join(f"{line}\n" for line in lines))
    desk.shell(f"cat >/dev/null; {SERVER} <{shlex.quote(str(asked))} >>{shlex.quote(str(answers(desk)))}; {after}")


def answers(desk: Desk) -> Path:
    return desk.base / "answers.jsonl"


def told(desk: Desk) -> list[str]:
    """The texts of all answers so far."""
    found: list[dict[str, Any]] = [json.loads(line)["result"] for line in answers(desk).read_text().splitlines()]
    assert not any(result["isError"] for result in found), found
    return [result["content"][0]["text"] for result in found]


def memory(desk: Desk) -> dict[str, str]:
    """What the notes' folder holds, links by their target."""
    folder = desk.state / "memory"
    return {path.name: f"-> {path.readlink()}" if path.is_symlink() else path.read_text() for path in folder.iterdir()}


def write(scope: str, text: str) -> tuple[str, dict[str, object]]:
    return "write_memory", {"scope": scope, "text": text}


def read(scope: str) -> tuple[str, dict[str, object]]:
    return "read_memory", {"scope": scope}


def test_the_next_turn_reads_what_this_one_wrote(desk: Desk) -> None:
    script(
        desk,
        read("global"),
        read("thread"),
        write("global", "# All\n"),
        write("thread", "old"),
        write("thread", "# T\n"),
    )
    (desk.state / "memory").mkdir()
    (desk.state / "memory" / "global.md").write_text("# Before\n")
    desk.send(thread="t1")
    assert outcomes(desk.once()) == ["done"]
    assert told(desk)[:2] == ["# Before\n", "There is no thread note yet; write_memory begins one."]
    assert memory(desk) == {"global.md": "# All\n", "t1.md": "# T\n"}
    answers(desk).unlink()
    script(desk, read("global"), read("thread"))
    desk.send(thread="t1")
    desk.send(thread="t2")
    desk.once()
    assert told(desk) == ["# All\n", "# T\n", "# All\n", "There is no thread note yet; write_memory begins one."]
    [*turns] = (desk.state / "turns").iterdir()
    assert len(turns) == 3
    assert not [path for turn in turns for path in turn.glob("note-*")]


def test_a_note_takes_effect_at_the_end_and_not_before(desk: Desk) -> None:
    seen = desk.base / "seen"
    script(
        desk,
        write("thread", "# T\n"),
        after=f"echo by hand >.agent-mailer/memory/t2.md; ls .agent-mailer/memory >{seen}",
    )
    desk.send(thread="t1")
    desk.once()
    assert seen.read_text() == "t2.md\n"
    assert memory(desk) == {"t1.md": "# T\n", "t2.md": "by hand\n"}


@pytest.mark.parametrize(
    ("after", "outcome", "kept"),
    [
        ("exit 3", "failed", False),
        ("kill -9 $$", "crashed", False),
        (f"""echo '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"finish","arguments":
          {{"outcome":"blocked","question":"Red?"}}}}}}' | tr -d '\\n' | {SERVER} >/dev/null""", "blocked", True),
    ],
)  # fmt: skip
def test_only_a_turn_that_settles_its_message_writes(desk: Desk, after: str, outcome: str, kept: bool) -> None:
    desk.configure(max_retries=0)
    script(desk, write("thread", "# T\n"), after=after)
    desk.send(thread="t1")
    assert outcomes(desk.once()) == [outcome]
    assert ("t1.md" in memory(desk)) == kept


def test_a_text_that_somebody_wrote_meanwhile_is_kept_beside_the_note(desk: Desk) -> None:
    script(
        desk,
        write("global", "# From the tool\n"),
        write("thread", "# From the tool\n"),
        after="echo by hand >.agent-mailer/memory/global.md; echo by hand >.agent-mailer/memory/t1.md",
    )
    desk.send(thread="t1")
    desk.once()
    [turn] = (desk.state / "turns").iterdir()
    assert memory(desk) == {
        "global.md": "# From the tool\n",
        "t1.md": "# From the tool\n",
        f"global.md.before-{turn.name}": "by hand\n",
        f"t1.md.before-{turn.name}": "by hand\n",
    }
    assert [(row["file"], turn.name in row["why"]) for row in desk.log(EventName.STATE_DAMAGED)] == [
        ("global.md", True),
        ("t1.md", True),
    ]


def test_the_same_text_by_hand_and_by_tool_is_one(desk: Desk) -> None:
    script(desk, write("thread", "same\n"), after="echo same >.agent-mailer/memory/t1.md")
    desk.send(thread="t1")
    desk.once()
    assert memory(desk) == {"t1.md": "same\n"}
    assert desk.log(EventName.STATE_DAMAGED) == []


def once_with(desk: Desk, monkeypatch: pytest.MonkeyPatch, trouble: Refusing) -> list[str]:
    place = desk.place()
    place.disk.system = trouble
    with monkeypatch.context() as patch:
        patch.setattr(desk, "place", lambda clock=None: place)
        return outcomes(desk.once())


def test_a_settlement_that_is_applied_again_leaves_later_texts_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(desk, write("global", "# From the tool\n"), after="echo by hand >.agent-mailer/memory/global.md")
    desk.send(thread="t1")
    # The notes are written, and the settlement does not get to its end.
    assert once_with(desk, monkeypatch, Refusing("settled")) == ["done"]
    [turn] = (desk.state / "turns").iterdir()
    assert not (turn / "settled").exists()
    assert "# From the tool" in (turn / "turn.json").read_text()
    once = memory(desk)
    assert once == {"global.md": "# From the tool\n", f"global.md.before-{turn.name}": "by hand\n"}
    (desk.state / "memory" / "global.md").write_text("later\n")
    assert outcomes(desk.once()) == []
    assert (turn / "settled").exists()
    assert memory(desk) == {**once, "global.md": "later\n"}
    assert "# From the tool" not in (turn / "turn.json").read_text()


@pytest.mark.parametrize("odd", ["link", "dangling", "folder", "fifo", "secret", "no folder"])
def test_what_is_no_note_in_its_place_stops_no_settlement(desk: Desk, odd: str) -> None:
    target = desk.base / "target"
    target.write_text("not a note\n")
    make = {
        "link": f"ln -sf {target} $n",
        "dangling": f"ln -sf {target}.gone $n",
        "folder": "mkdir $n; echo x >$n/x",
        "fifo": "mkfifo $n",
        "secret": "echo x >$n; chmod 0 $n",
        "no folder": "rm -r .agent-mailer/memory; echo x >.agent-mailer/memory",
    }[odd]
    script(desk, write("thread", "# T\n"), after=f"n=.agent-mailer/memory/t1.md; {make}; echo fine")
    desk.send(thread="t1")
    assert outcomes(desk.once()) == ["done"]
    note = desk.state / "memory" / "t1.md"
    assert (note.is_symlink(), note.read_text()) == (False, "# T\n")
    assert target.read_text() == "not a note\n"
    assert len(desk.inbox()) == 1
    assert len(desk.log(EventName.STATE_DAMAGED)) == 1


@pytest.mark.parametrize(("code", "times", "text"), [(errno.ENOSPC, 1, "# T\n"), (errno.EACCES, ALWAYS, "# Before\n")])
def test_a_disk_that_refuses_a_note_delays_it_but_permissions_do_not(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, code: int, times: int, text: str
) -> None:
    (desk.state / "memory").mkdir()
    (desk.state / "memory" / "t1.md").write_text("# Before\n")
    script(desk, write("thread", "# T\n"))
    desk.send(thread="t1")
    assert once_with(desk, monkeypatch, Refusing("memory", code=code, times=times)) == ["done"]
    desk.once()
    assert memory(desk)["t1.md"] == text
    assert [path.read_text() for path in desk.state.glob("turns/*/unwritten-*")] == ["# T\n"] * (code == errno.EACCES)
    assert len(desk.inbox()) == 1
    assert len(desk.log(EventName.STATE_TROUBLE)) == 1
    assert len(desk.log(EventName.MESSAGE_DONE)) == 1


def test_a_note_too_large_to_be_shown_whole_is_not_lost(desk: Desk) -> None:
    big = "ä" * MAX_NOTE_BYTES
    (desk.state / "memory").mkdir()
    (desk.state / "memory" / "t1.md").write_text(big)
    script(desk, ("read_memory", {"scope": "thread", "offset": MAX_NOTE_BYTES // 2 - 10}), write("thread", "short"))
    desk.send(thread="t1")
    desk.once()
    assert "all of it is in " + str(desk.state / "memory" / "t1.md") in told(desk)[0]
    [turn] = (desk.state / "turns").iterdir()
    assert memory(desk)[f"t1.md.before-{turn.name}"] == big
    assert memory(desk)["t1.md"] == "short"


def test_a_thread_of_an_odd_name_has_its_note_in_the_folder(desk: Desk) -> None:
    script(desk, write("thread", "# T\n"))
    desk.send(thread="../../escape")
    desk.once()
    names = set(memory(desk)) - {"global.md"}
    assert len(names) == 1
    assert names.pop().endswith(".md")
    assert not (desk.base / "escape.md").exists()


def test_a_turn_reads_answers_and_ends_through_the_tools(desk: Desk) -> None:
    script(
        desk,
        ("read_message", {}),
        ("list_contacts", {}),
        ("reply", {"body": "half way", "now": True}),
        ("forward", {"to": ["planner"], "body": "please check"}),
        ("reply", {"body": "painted", "kind": "answer"}),
        ("finish", {"outcome": "done"}),
        after="echo ignored",
    )
    desk.send("paint it", thread="t1")
    assert outcomes(desk.once()) == ["done"]
    assert "paint it" in told(desk)[0]
    assert sorted(message.body for message in desk.inbox()) == ["half way\n", "painted\n"]
    assert [message.body.startswith("please check") for message in desk.inbox("planner")] == [True]
