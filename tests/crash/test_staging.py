"""What an agent's tools stage is durable when they answer, or they say otherwise: under faults and power failures."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from tests.crash.faults import Kind, Lasting, QuickFaultySystem
from tests.crash.power import EXTREMES, Chance, PowerModel
from tests.crash.recording import QuickSystem, RecordingSystem, lay_out

from agent_mailer.disk import Disk
from agent_mailer.mailbox.port import Action, Contact, Draft, Envelope, Message
from agent_mailer.turn_tools.folder import Facts, FinishKind, FinishNote, NoteScope, NoteWrite, TurnFolder

MESSAGE = Message(Envelope("m-1", "t", "user", 1_700_000_000.0, "1", "m-1.md", to=("coder",)), "subject", "body\n")
FACTS = Facts("turn-1", "coder", 10 * 1024 * 1024, "/memory/global.md", "/memory/t.md")
REPLIES = [Draft("", Action.REPLY, 5.0 + n, body=f"part {n}") for n in range(2)]
NOTE = NoteWrite(NoteScope.THREAD, "# what I know\n")


def prepared(path: Path) -> None:
    path.mkdir()
    TurnFolder(path, Disk(QuickSystem())).prepare(MESSAGE, [MESSAGE], [Contact("user")], FACTS)


def stage(turn: TurnFolder) -> None:
    for reply in REPLIES:
        turn.stage(reply)
    turn.write_note(NOTE)
    turn.finish(FinishNote(FinishKind.BLOCKED, "which?"))


def check(path: Path) -> None:
    sealed = TurnFolder(path, Disk(QuickSystem())).seal()
    assert [draft.body for draft in sealed.drafts] == ["part 0", "part 1"]
    assert sealed.notes == (NOTE,)
    assert sealed.finish == FinishNote(FinishKind.BLOCKED, "which?")
    assert sealed.damaged == 0


@pytest.mark.parametrize("lasting", list(Lasting), ids=lambda lasting: lasting.value)
@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_every_call_of_a_tool_fails(tmp_path: Path, kind: Kind, lasting: Lasting) -> None:
    for at in itertools.count(1):
        path = tmp_path / str(at)
        prepared(path)
        system = QuickFaultySystem(at, kind, lasting)
        try:
            stage(TurnFolder(path, Disk(system)))
        except OSError:
            # The tool said so: the agent does it again.
            system.end()
            stage(TurnFolder(path, Disk(QuickSystem())))
        finally:
            system.end()
        check(path)
        if not system.fired:
            assert at > 4
            return


def test_the_power_fails_when_a_tool_has_answered(tmp_path: Path) -> None:
    prepared(tmp_path / "turn")
    system = RecordingSystem(tmp_path, ("turn",), lambda _: False)
    model = PowerModel(system.operations)
    model.sync_all()
    start = len(system.operations)
    stage(TurnFolder(tmp_path / "turn", Disk(system)))
    for operation in system.operations[start:]:
        model.apply(operation)
    for fate in (*EXTREMES, *(Chance(random.Random(seed)) for seed in range(60))):
        lay_out(model.crash(fate), tmp_path, ("turn",))
        check(tmp_path / "turn")
