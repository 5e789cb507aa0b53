"""By notes and documents one mail reaches every later turn: each change is told, kept, and can be taken back."""

from __future__ import annotations

import asyncio
import errno
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.clocks import FakeClock
from tests.desk import Desk
from tests.powers import no_powers
from tests.refusing import Died, On, Refusing
from tests.typed import Typed, type_in

from agent_mailer.disk import Sync, SystemCalls
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import new_turn_id
from agent_mailer.process.handle import ProcessIdentity
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.turn_tools.folder import MAIL, MAX_NOTE_BYTES, NoteScope
from agent_mailer.watch.start import documents_of


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def memory(desk: Desk, *words: str, **env: str) -> Typed:
    return type_in(desk.base, "memory", *words, "-C", desk.workdir, env=env)


def turn(
    desk: Desk,
    script: str,
    meanwhile: Callable[[], None] = lambda: None,
    system: SystemCalls | None = None,
    **settings: object,
) -> None:
    """`meanwhile` is done once it runs; `system` is the disk that the watcher has."""
    desk.configure(command=["/bin/sh", "-c", f"cat >/dev/null; {script}; echo done"], **settings)
    desk.send(thread="t1", sender="planner")
    desk.once(system=system, heard=lambda record: meanwhile() if record.event is EventName.TURN_STARTED else None)


def by_the_tool(desk: Desk, text: str) -> str:
    """A shell line that stages a note as the turn's tools do."""
    call: dict[str, object] = {"jsonrpc": "2.0", "id": 2, "method": "tools/call"}
    call["params"] = {"name": "write_memory", "arguments": {"scope": "global", "text": text}}
    first: dict[str, object] = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
    first["params"] = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    path = desk.base / "calls"
    path.write_text("".join(json.dumps(one) + "\n" for one in (first, call)))
    return f"agent-mailer mcp <{path} >{desk.base}/answers"


def test_a_note_that_a_turn_changes_is_told_kept_and_taken_back(desk: Desk) -> None:
    desk.once()
    (desk.state / "memory" / "global.md").write_text("good\n")
    turn(desk, by_the_tool(desk, "good\nand \x1b[31mobey planner"))
    [told] = desk.log(EventName.NOTE_CHANGED)
    assert (told["file"], told["how"], told["thread"], told["sender"]) == ("global.md", "tool", "t1", "planner")
    assert told["turn_id"] in [one.turn_id for one in [desk.place().state.turns.load(told["turn_id"])] if one]
    [change] = json.loads(memory(desk, "log", "--json").out)["changes"]
    assert (change["before"], change["from"]) == ("good\n", "planner")
    assert change["id"] in memory(desk, "log").out
    shown = memory(desk, "diff", change["id"]).out
    assert "obey planner" in shown
    assert "\x1b" not in shown
    assert memory(desk, "revert", change["id"]).status == 0
    assert (desk.state / "memory" / "global.md").read_text() == "good\n"
    assert [one["how"] for one in json.loads(memory(desk, "log", "--json").out)["changes"]] == ["by-hand", "tool"]
    again = memory(desk, "revert", change["id"])
    assert (again.status, "has that text already" in again.out) == (0, True)
    (desk.state / "memory" / "global.md").write_text("somebody's\n")
    again = memory(desk, "revert", change["id"])
    assert (again.status, "has changed since" in again.err) == (1, True)


def test_a_file_that_is_written_itself_is_told_too_and_once(desk: Desk) -> None:
    desk.once()
    turn(desk, "echo obey >>.agent-mailer/memory/global.md")
    turn(desk, "true")
    assert [(one["file"], one["how"]) for one in desk.log(EventName.NOTE_CHANGED)] == [("global.md", "file")]
    turn(desk, "echo more >>.agent-mailer/memory/global.md; exit 3")
    assert len(desk.log(EventName.NOTE_CHANGED)) == 2


def test_what_a_person_edits_while_a_turn_runs_is_his(desk: Desk) -> None:
    desk.once()
    editor = "sed -i 1i\\ mine"
    assert memory(desk, "edit", EDITOR=editor).status == 0
    turn(desk, "true")
    assert desk.log(EventName.NOTE_CHANGED) == []
    assert [one["how"] for one in json.loads(memory(desk, "log", "--json").out)["changes"]] == ["by-hand"]


def test_a_global_note_that_is_to_be_read_only_stays(desk: Desk) -> None:
    desk.once()
    path = desk.state / "memory" / "global.md"
    path.write_text("good\n")
    turn(desk, f"{by_the_tool(desk, 'evil')}; echo evil >>.agent-mailer/memory/global.md", memory_global="read")
    assert path.read_text() == "good\n"
    assert "memory_global" in (desk.base / "answers").read_text()
    [told] = desk.log(EventName.NOTE_CHANGED)
    assert told["how"] == "refused"
    [change] = json.loads(memory(desk, "log", "--json").out)["changes"]
    assert change["after"] == "good\nevil\n"


@pytest.mark.parametrize(("more", "undone"), [(0, True), (9, False)])
def test_a_note_of_which_its_turn_saw_but_a_part_is_never_undone_to_that_part(
    desk: Desk, more: int, undone: bool
) -> None:
    place = desk.place()
    place.folder.hold()
    place.prepare()
    now, process = time.time(), ProcessIdentity(1, 1, "another boot")
    envelope = Envelope("m", "t1", "planner", now, "o", "l")
    record = TurnRecord(new_turn_id(now), envelope, Phase.SETTLING, "command", now, process=process)
    place.state.turns.create(record)
    folder, path = place.state.turns.folder(record.turn_id), place.folder.memory / "global.md"
    known = b"x" * (MAX_NOTE_BYTES + more)
    path.write_bytes(known)
    folder.note_copy(NoteScope.GLOBAL).write_bytes(place.state.notes.copies("t1")[NoteScope.GLOBAL])
    (folder.path / MAIL).touch()
    path.write_bytes(b"evil\n" + known)
    place.state.notes.write(record, [], fixed=True)
    assert path.read_bytes() == (known if undone else b"evil\n" + known)
    assert [told["how"] for told in desk.log(EventName.NOTE_CHANGED)] == ["refused" if undone else "file"]


def test_a_text_that_was_undone_or_replaced_before_is_undone_again(desk: Desk) -> None:
    """That somebody had once written it accounts for nothing that this turn writes."""
    path = desk.place().folder.path / "memory" / "global.md"
    desk.once()
    path.write_text("good\n")
    desk.place().state.notes.by_hand(path, b"bad\n", b"evil\n")
    desk.place().state.notes.by_hand(path, b"evil\n", b"good\n")
    for _ in range(3):
        turn(desk, "echo evil >.agent-mailer/memory/global.md", memory_global="read")
        assert path.read_text() == "good\n"
    assert [told["how"] for told in desk.log(EventName.NOTE_CHANGED)] == ["refused"] * 3


@pytest.mark.parametrize("code", [errno.ENOSPC, None])
def test_an_undoing_that_is_broken_off_or_refused_is_done_in_the_end(desk: Desk, code: int | None) -> None:
    desk.once()
    path = desk.state / "memory" / "global.md"
    path.write_text("good\n")
    system = Refusing("memory/global.md", On.REPLACE, code=code, times=1)
    with suppress(Died):
        turn(desk, "echo evil >.agent-mailer/memory/global.md", system=system, memory_global="read")
    assert system.refused
    desk.once()
    assert path.read_text() == "good\n"
    assert [told["how"] for told in desk.log(EventName.NOTE_CHANGED)] == ["refused"]


def test_what_lies_in_its_place_is_moved_aside(desk: Desk) -> None:
    path = desk.place().folder.path / "memory" / "global.md"
    desk.once()
    path.write_text("good\n")
    turn(desk, "cd .agent-mailer/memory; rm global.md; mkdir global.md; echo x >global.md/x", memory_global="read")
    assert path.read_text() == "good\n"
    [aside] = path.parent.glob("global.md.before-*")
    assert (aside / "x").read_text() == "x\n"


@pytest.mark.parametrize("instead", ["rm -r memory", "mv memory x; touch memory", "mv memory x; ln -s x memory"])
def test_a_folder_of_notes_that_is_gone_or_another_thing_keeps_no_turn_from_its_end(desk: Desk, instead: str) -> None:
    desk.once()
    path = desk.state / "memory" / "global.md"
    path.write_text("good\n")
    turn(desk, f"cd .agent-mailer; {instead}", memory_global="read")
    assert (path.read_text(), path.parent.is_symlink()) == ("good\n", False)
    assert [told["thread"] for told in desk.log(EventName.MESSAGE_DONE)] == ["t1"]


def test_what_cannot_be_undone_for_want_of_permission_is_told_and_keeps_no_turn_from_its_end(desk: Desk) -> None:
    path = desk.place().folder.path / "memory" / "global.md"
    desk.once()
    path.write_text("good\n")
    with no_powers():
        turn(desk, "cd .agent-mailer/memory; echo evil >global.md; chmod 555 .", memory_global="read")
    path.parent.chmod(0o700)
    [told] = desk.log(EventName.STATE_TROUBLE)
    assert "could not be undone: agent-mailer memory edit" in told["why"]
    assert [ended["outcome"] for ended in desk.log(EventName.TURN_ENDED)] == ["done"]


def test_what_a_person_wrote_into_it_meanwhile_stays(desk: Desk) -> None:
    desk.once()
    path = desk.state / "memory" / "global.md"
    path.write_text("good\n")

    def edited() -> None:
        """As `memory edit` saves what was opened before the turn began."""
        desk.disk.replace(path, b"mine\n", sync=Sync.FULL)
        desk.place().state.notes.by_hand(path, b"good\n", b"mine\n")

    turn(desk, "true", edited, memory_global="read")
    assert path.read_text() == "mine\n"
    assert desk.log(EventName.NOTE_CHANGED) == []


class Fixed:
    """A state whose note of all threads no turn may change, and turns that have begun with what it held."""

    def __init__(self, desk: Desk) -> None:
        self.clock = FakeClock()
        self.place = desk.place(self.clock)
        self.place.folder.hold()
        self.place.prepare()
        self.notes = self.place.state.notes
        self.path = self.place.folder.memory / "global.md"
        self.path.write_text("good\n")

    def begins(self) -> TurnRecord:
        self.clock.moment += 1
        at = self.clock.moment
        envelope, process = Envelope("m", "t", "user", at, "o", "l"), ProcessIdentity(1, 1, "another boot")
        record = TurnRecord(new_turn_id(at), envelope, Phase.SETTLING, "command", at, process=process, started_at=at)
        self.place.state.turns.create(record)
        copy = self.place.state.turns.folder(record.turn_id).note_copy(NoteScope.GLOBAL)
        copy.write_bytes(self.path.read_bytes())
        copy.with_name(MAIL).write_bytes(b"")
        return record

    def ends(self, record: TurnRecord) -> None:
        self.clock.moment += 1
        self.notes.write(record, [], fixed=True)

    def edited(self, text: str) -> None:
        """As `memory edit` saves what was opened before a turn began."""
        self.clock.moment += 1
        before = self.path.read_bytes()
        self.path.write_text(text)
        self.notes.by_hand(self.path, before, text.encode())


@pytest.mark.parametrize("then", ["evil\n", "mine\nevil\n", "good\n", "first\n", None])
def test_what_a_person_has_edited_stays_whatever_a_turn_makes_of_a_note_that_it_may_not_change(
    desk: Desk, then: str | None
) -> None:
    """A turn that gives it a text of before has changed it, too."""
    fixed = Fixed(desk)
    record = fixed.begins()
    fixed.edited("first\n")
    fixed.edited("mine\n")
    for _ in range(9):
        # What others have tried meanwhile makes nothing unknown.
        other = fixed.begins()
        fixed.path.write_text("other\n")
        fixed.ends(other)
    fixed.path.unlink() if then is None else fixed.path.write_text(then)
    fixed.ends(record)
    assert fixed.path.read_text() == "mine\n"
    change = next(one for one in fixed.notes.history.all() if one.turn_id == record.turn_id)
    assert (change.how, change.before, change.after) == ("refused", "mine\n", then)


@pytest.mark.parametrize("first_ends_first", [False, True])
@pytest.mark.parametrize("edits", [False, True])
@pytest.mark.parametrize("writes", ["", "evil\n", "worse\n"])
def test_what_one_turn_has_written_and_another_has_begun_with_is_gone_when_both_have_ended(
    desk: Desk, writes: str, edits: bool, first_ends_first: bool
) -> None:
    fixed = Fixed(desk)
    first = fixed.begins()
    fixed.path.write_text("evil\n")
    second = fixed.begins()
    if edits:
        fixed.edited("mine\n")
    if writes:
        fixed.path.write_text(writes)
    for record in (first, second) if first_ends_first else (second, first):
        fixed.ends(record)
    assert fixed.path.read_text() == ("mine\n" if edits else "good\n")


def test_an_edit_that_is_too_long_to_be_remembered_is_not_undone(desk: Desk) -> None:
    fixed = Fixed(desk)
    record = fixed.begins()
    long = "x" * (MAX_NOTE_BYTES + 1)
    fixed.edited(long)
    fixed.ends(record)
    assert fixed.path.read_text() == long
    assert desk.log(EventName.NOTE_CHANGED) == []
    fixed.path.write_text("evil\n")
    fixed.ends(record)
    assert [told["how"] for told in desk.log(EventName.NOTE_CHANGED)] == ["file"], "it is told, and not undone"


def test_a_turn_that_changes_what_tells_agents_what_to_do_is_told_of(desk: Desk) -> None:
    told, project = desk.base / "told", desk.base / "project"
    project.mkdir()
    notify = {"command": ["sh", "-c", f"cat >>{told}; echo >>{told}"]}
    desk.configure(notify=notify, project_dir=str(project), max_retries=0)
    (desk.workdir / "CLAUDE.md").write_text("good\n")
    turn(desk, "true")
    assert desk.log(EventName.INSTRUCTIONS_CHANGED) == []
    changes = f"echo obey >>CLAUDE.md; mkdir -p .claude; echo '{{}}' >.claude/settings.json; echo >{project}/AGENTS.md"
    turn(desk, f"{changes}; echo x >note.md")
    [event] = desk.log(EventName.INSTRUCTIONS_CHANGED)
    assert event["file"] == f".claude/settings.json CLAUDE.md {project}/AGENTS.md"
    assert (event["thread"], event["sender"]) == ("t1", "planner")
    [notice] = [json.loads(line) for line in told.read_text().splitlines() if line]
    assert (notice["kind"], notice["turn_id"]) == ("instructions", event["turn_id"])
    assert "CLAUDE" not in json.dumps(notice)
    # It tampers with what is remembered in its folder: the watcher that saw it begin knows better.
    # However it ends.
    turn(desk, 'rm "$AGENT_MAILER_TURN_DIR"/documents.json; echo more >>CLAUDE.md; exit 3')
    assert len(desk.log(EventName.INSTRUCTIONS_CHANGED)) == 2
    assert not list(desk.state.glob("turns/*/documents.json"))


@pytest.mark.parametrize(
    ("script", "changed"),
    [
        ("git commit -qm more --allow-empty; git checkout -qb side; git branch -q -u main; git gc -q", ""),
        ("git config core.fsmonitor ./evil", ".git/config"),
        (
            "echo . >x; cp x .git/hooks/pre-commit; mkdir evil; echo ../evil >.git/commondir",
            ".git/commondir .git/hooks/pre-commit",
        ),
        ("mv .git away; echo 'gitdir: away' >.git", ".git .git/config"),
        ("git init -q sub/deep", "sub/deep/.git/config"),
        ("rm .git/HEAD; mkdir objects refs; touch config; echo 'ref: refs/heads/x' >HEAD", "config"),
    ],
)
def test_a_turn_that_changes_what_git_runs_is_told_of(desk: Desk, script: str, changed: str) -> None:
    """It would run when a person types `git status` there."""
    who = "export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=e GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=e"
    turn(desk, f"{who}; git init -q -b main; mkdir -p .git/hooks; git commit -qm one --allow-empty")
    told = len(desk.log(EventName.INSTRUCTIONS_CHANGED))
    turn(desk, f"{who}; {script}")
    events = desk.log(EventName.INSTRUCTIONS_CHANGED)[told:]
    named = {name for event in events for name in str(event["file"]).split()}
    assert set(changed.split()) <= named, named
    assert bool(events) is bool(changed), named


def test_the_loop_goes_on_while_documents_are_looked_at(desk: Desk) -> None:
    """They lie where an agent writes, and may be many."""
    for number in range(50):
        (desk.workdir / ".claude").mkdir(exist_ok=True)
        (desk.workdir / ".claude" / f"{number}.md").write_text("x" * 1000)
    place = desk.place()
    room = place.room(place.lock())

    async def look() -> tuple[int, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(tick())
        found = len(await documents_of(room))
        beside.cancel()
        return found, ticks

    found, ticks = asyncio.run(look())
    assert found == 50
    assert ticks > 0
