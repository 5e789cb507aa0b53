"""A person edits a note while the agent works: neither loses the other's text."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.desk import Desk, until
from tests.refusing import Died, On, Refusing
from tests.typed import COMMAND, type_in

from agent_mailer.cli.memory import edit
from agent_mailer.cli.stuck import show as show_stuck
from agent_mailer.disk import SystemCalls
from agent_mailer.events import EventName
from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import GLOBAL_NOTE, memory_file, new_turn_id
from agent_mailer.process.handle import identify
from agent_mailer.state import notes
from agent_mailer.state.notes import PATIENCE, note_lock
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.state.turns import TurnStore
from agent_mailer.turn_tools.folder import MAIL, MAX_NOTE_BYTES, NoteScope, NoteWrite
from agent_mailer.views.kept import note_changes

NOW = 1_800_000_000.0
APPEND = {"EDITOR": "sh -c 'echo mine >> \"$1\"' sh", "VISUAL": ""}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_while_a_turn_runs_its_notes_are_not_edited(desk: Desk) -> None:
    go = desk.base / "go"
    desk.script({"wait_for": str(go)}, {"print": "done"})
    desk.send(thread="busy")
    with desk.watching():
        until(lambda: desk.log(EventName.TURN_STARTED), "the agent works")
        for words in (["--thread", "busy"], ["--thread", "bus"], []):
            refused = type_in(desk.workdir, "memory", "edit", *words, env=APPEND)
            assert refused.status == 75
            assert "runs, and may write this note" in refused.err
            assert "memory edit --wait" in refused.err
        assert type_in(desk.workdir, "memory", "edit", "--thread", "idle", env=APPEND).status == 0
        waiting = subprocess.Popen(
            [COMMAND, "memory", "edit", "--wait", "--thread", "busy"],
            cwd=desk.workdir,
            env={**APPEND, "HOME": str(desk.base), "PATH": "/usr/bin:/bin"},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert "waiting for the end of turn" in waiting.stderr.readline()
        go.touch()
        waiting.communicate(timeout=60)
        assert waiting.returncode == 0
    assert (desk.state / "memory" / "busy.md").read_text().endswith("mine\n")


class Ends(io.StringIO):
    """A screen: each turn whose end is waited for on it ends as that is said."""

    def __init__(self, turns: TurnStore) -> None:
        super().__init__()
        self._turns = turns
        self.waited: list[str] = []

    def write(self, text: str) -> int:
        for turn in re.findall(r"waiting for the end of turn (\S+);", text):
            self.waited.append(turn)
            self._turns.remove([turn])
        return super().write(text)


@pytest.mark.parametrize("thread", [None, "t"])
def test_who_waits_for_turns_side_by_side_edits_once_none_of_them_may_write_the_note(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, thread: str | None
) -> None:
    place, open_by_then = desk.place(), desk.base / "open"
    place.folder.hold()
    place.prepare()
    runs = msgspec.structs.replace(settling(), phase=Phase.RUNNING, process=identify(os.getpid()))
    turns = [msgspec.structs.replace(runs, turn_id=new_turn_id(NOW)) for _ in range(3)]
    for turn in turns:
        place.state.turns.create(turn)
    screen = Ends(place.state.turns)
    monkeypatch.setattr(sys, "stderr", screen)
    folder = place.state.turns.path(turns[0].turn_id).parent
    monkeypatch.setenv("VISUAL", f"sh -c 'ls {folder} >{open_by_then}; echo mine >>\"$1\"' sh")
    edit(thread, wait=True, workdir=desk.workdir)
    assert sorted(screen.waited) == sorted(turn.turn_id for turn in turns)
    assert not [turn for turn in turns if turn.turn_id in open_by_then.read_text()], "before the editor opens"
    assert (place.folder.memory / f"{thread or GLOBAL_NOTE}.md").read_text().endswith("mine\n")


def test_a_note_that_changed_under_the_editor_is_left_and_the_text_kept(desk: Desk) -> None:
    type_in(desk.workdir, "memory", "edit", env=APPEND)
    path = desk.state / "memory" / "global.md"
    editor = f"sh -c 'echo theirs > {path}; echo again >> \"$1\"' sh"
    done = type_in(desk.workdir, "memory", "edit", "--json", env={"EDITOR": editor, "VISUAL": ""})
    assert done.status == 2  # it prints nothing that a script could want
    done = type_in(desk.workdir, "memory", "edit", env={"EDITOR": editor, "VISUAL": ""})
    assert done.status == 1
    assert path.read_text() == "theirs\n"
    (kept,) = desk.state.glob("note-*.edit.md")
    assert kept.read_text().endswith("mine\nagain\n")
    assert str(kept) in done.err


@pytest.mark.parametrize("known", [False, True])
def test_what_was_typed_in_an_editor_that_ended_badly_is_kept(desk: Desk, known: bool) -> None:
    if known:
        type_in(desk.workdir, "memory", "edit", "--thread", "t", env=APPEND)
    for typed in ("", "echo saved >> $1; "):
        done = type_in(
            desk.workdir, "memory", "edit", "--thread", "t", env={"EDITOR": f"sh -c '{typed}exit 1' sh", "VISUAL": ""}
        )
        assert done.status == 1, done
        kept = [path.read_text().splitlines()[-1] for path in desk.state.glob("note-*.edit.md")]
        assert kept == (["saved"] if typed else [])
    assert (desk.state / "memory" / "t.md").exists() is known


def test_a_turn_that_began_meanwhile_is_told_of_and_loses_nobody_s_text(desk: Desk) -> None:
    began, saved = desk.base / "began", desk.base / "saved"
    desk.shell(
        f"cat >/dev/null; touch {began}; while [ ! -e {saved} ]; do sleep 0.02; done; "
        f"echo '{_written('theirs')}' | agent-mailer mcp >/dev/null; echo done"
    )
    editor = f"sh -c 'touch {desk.base}/open; while [ ! -e {began} ]; do sleep 0.02; done; echo mine >> \"$1\"' sh"
    editing = subprocess.Popen(
        [COMMAND, "memory", "edit", "--thread", "t"],
        cwd=desk.workdir,
        env={"EDITOR": editor, "HOME": str(desk.base), "PATH": "/usr/bin:/bin"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until((desk.base / "open").exists, "the editor")
    with desk.watching():
        desk.send(thread="t")
        _, told = editing.communicate(timeout=60)
        assert editing.returncode == 0
        saved.touch()
        until(lambda: desk.log(EventName.MESSAGE_DONE), "the end of the message")
    assert (desk.state / "memory" / "t.md").read_text() == "theirs"
    (kept,) = (desk.state / "memory").glob("t.md.before-*")
    assert kept.read_text().endswith("mine\n")
    assert kept.name in told


def settling() -> TurnRecord:
    return TurnRecord(new_turn_id(NOW), Envelope("m", "t", "user", NOW, "o", "l"), Phase.SETTLING, "command", NOW)


@pytest.mark.parametrize(("more", "kept"), [(0, False), (10, True)])
def test_a_note_that_its_turn_saw_in_part_is_kept_beside_what_the_turn_wrote(desk: Desk, more: int, kept: bool) -> None:
    place = desk.place()
    place.folder.hold()
    place.prepare()
    record = settling()
    place.state.turns.create(record)
    path = place.folder.memory / "t.md"
    path.write_bytes(b"x" * (MAX_NOTE_BYTES + more))
    copy = place.state.turns.folder(record.turn_id).note_copy(NoteScope.THREAD)
    copy.write_bytes(place.state.notes.copies("t")[NoteScope.THREAD])
    place.state.notes.write(record, [NoteWrite(NoteScope.THREAD, "short\n")])
    assert path.read_text() == "short\n"
    beside = [one.stat().st_size for one in place.folder.memory.glob("t.md.before-*")]
    assert beside == ([MAX_NOTE_BYTES + more] if kept else [])


@pytest.mark.parametrize("code", [errno.ENOSPC, None])
@pytest.mark.parametrize("note", ["global.md", "t.md"])
def test_of_two_notes_both_are_written_in_the_end_whichever_could_not_be_at_first(
    desk: Desk, note: str, code: int | None
) -> None:
    place = desk.place()
    place.folder.hold()
    place.prepare()
    record = settling()
    place.state.turns.create(record)
    left = [NoteWrite(NoteScope.GLOBAL, "for all\n"), NoteWrite(NoteScope.THREAD, "of one\n")]
    place.disk.system = Refusing(f"memory/{note}", On.REPLACE, code=code, times=1)
    with pytest.raises((Died, OSError)):
        place.state.notes.write(record, left)
    place.disk.system = SystemCalls()
    place.state.notes.write(record, left)
    memory = place.folder.memory
    assert [(memory / name).read_text() for name in ("global.md", "t.md")] == ["for all\n", "of one\n"]


@pytest.mark.parametrize("denied", ["global.md", "t.md", "*.md"])
def test_of_two_notes_each_that_may_not_be_written_is_kept_and_keeps_the_other_from_nothing(
    desk: Desk, denied: str
) -> None:
    place = desk.place()
    place.folder.hold()
    place.prepare()
    record, told = settling(), list[str]()
    place.state.turns.create(record)
    place.log.listen(lambda said: told.append(said.event))
    left = [NoteWrite(NoteScope.GLOBAL, "for all\n"), NoteWrite(NoteScope.THREAD, "of one\n")]
    place.disk.system = Refusing(f"memory/{denied}", On.REPLACE, code=errno.EACCES)
    for _ in range(2):
        place.state.notes.write(record, left)
    written = [path.read_text() for path in place.folder.memory.glob("*.md")]
    kept = [path.read_text() for path in place.state.turns.path(record.turn_id).glob("unwritten-*")]
    refused = [Path(name).match(denied) for name in ("global.md", "t.md")]
    assert [(one.text in written, one.text in kept) for one in left] == [(not one, one) for one in refused]
    assert told.count(EventName.STATE_TROUBLE) == len(kept)


def test_what_a_person_just_writes_is_written_down_before_a_turn_looks(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "PATIENCE", 60.0)
    place = desk.place(FakeClock(NOW))
    place.folder.hold()
    place.prepare()
    record = msgspec.structs.replace(settling(), process=identify(os.getpid()))
    place.state.turns.create(record)
    path, folder = place.folder.memory / "global.md", place.state.turns.folder(record.turn_id)
    copy = folder.note_copy(NoteScope.GLOBAL)
    copy.write_bytes(b"good\n")
    copy.with_name(MAIL).write_bytes(b"")
    settled = threading.Thread(target=place.state.notes.write, args=(record, []), kwargs={"fixed": True})
    with note_lock(path.parent):
        path.write_text("mine\n")
        settled.start()
        # As long as a settlement that asks nobody takes; one that waits is not hurried by it.
        settled.join(0.5)
        place.state.notes.by_hand(path, copy.read_bytes(), b"mine\n")
    settled.join()
    assert path.read_text() == "mine\n"
    assert desk.log(EventName.NOTE_CHANGED) == []


def test_one_writer_at_a_time_but_nobody_waits_for_ever(tmp_path: Path) -> None:
    with note_lock(tmp_path):
        assert not _is_free(tmp_path)
        began = time.monotonic()
        with note_lock(tmp_path):
            # Somebody who does not let go, stopped say, costs the others their patience and no more.
            assert time.monotonic() - began >= PATIENCE
    assert _is_free(tmp_path)
    with note_lock(tmp_path / "missing"):
        assert not (tmp_path / "missing").exists()


class Watched(SystemCalls):
    """Tells of each change to a note whether another writer could have come in between."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self.free: list[bool] = []

    def replace(self, source: Path, target: Path) -> None:
        if target.parent == self._memory:
            self.free.append(_is_free(self._memory))
        super().replace(source, target)

    def rename_noreplace(self, source: Path, target: Path) -> None:
        if target.parent == self._memory:
            self.free.append(_is_free(self._memory))
        super().rename_noreplace(source, target)


def test_a_settlement_writes_notes_as_their_only_writer(desk: Desk) -> None:
    memory = desk.state / "memory"
    memory.mkdir(mode=0o700)
    (memory / "t.md").write_text("before\n")
    desk.shell(
        f"cat >/dev/null; echo meanwhile >{memory}/t.md; echo '{_written('theirs')}' | agent-mailer mcp >/dev/null"
    )
    desk.send(thread="t")
    system = Watched(memory)
    desk.once(system=system)
    assert (memory / "t.md").read_text() == "theirs"
    # The text that somebody wrote meanwhile is put aside, then the new one takes its place.
    assert system.free == [False, False]


def _written(text: str) -> str:
    """What an agent's client sends to have its thread's note written."""
    words = {"name": "write_memory", "arguments": {"scope": "thread", "text": text}}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": words})


def _is_free(folder: Path) -> bool:
    """Whether somebody else could take the lock of the notes now."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


NOTES = """cat >/dev/null; cd "$AGENT_MAILER_TURN_DIR/outbox" || exit 1
printf 'what was learned\\n' >note-thread; printf 'for all\\n' >note-global
"""


def test_notes_of_a_turn_that_failed_are_kept_and_made_when_a_person_says_so(desk: Desk) -> None:
    desk.configure(max_retries=0)
    desk.shell(f"{NOTES}exit 1")
    sent = desk.send(thread="t")
    desk.once()
    memory = desk.state / "memory"
    before = (memory / "global.md").read_bytes() if (memory / "global.md").exists() else b""
    assert not (memory / "t.md").exists()
    found = type_in(desk.workdir, "memory", "log", "--json").json["changes"]
    assert sorted((one["note"], one["how"], one["after"]) for one in found) == [
        ("global.md", "kept", "for all\n"),
        ("t.md", "kept", "what was learned\n"),
    ]
    of_thread, of_all = (next(one["id"] for one in found if one["note"] == note) for note in ("t.md", "global.md"))
    told = type_in(desk.workdir, "stuck", "show", sent).err
    assert f"agent-mailer memory apply {of_thread}" in told
    assert f"agent-mailer memory apply {of_all}" in told
    assert "+what was learned" in type_in(desk.workdir, "memory", "diff", of_thread).out
    refused = type_in(desk.workdir, "memory", "revert", of_thread)
    assert (refused.status, "memory apply" in refused.err) == (1, True)
    desk.once()
    assert ((memory / "global.md").read_bytes() if before else b"") == before, "no settlement makes it later"
    assert type_in(desk.workdir, "memory", "apply", of_thread).status == 0
    assert (memory / "t.md").read_text() == "what was learned\n"
    (memory / "global.md").write_text("somebody's\n")
    again = [type_in(desk.workdir, "memory", "apply", one) for one in (of_thread, of_all)]
    assert [one.status for one in again] == [0, 1]
    assert "has that text already" in again[0].out
    assert "has changed since" in again[1].err
    assert (memory / "global.md").read_text() == "somebody's\n"
    by_hand = [
        one for one in type_in(desk.workdir, "memory", "log", "--json").json["changes"] if one["how"] == "by-hand"
    ]
    assert [one["after"] for one in by_hand] == ["what was learned\n"]


def test_of_what_was_given_up_the_notes_of_each_of_its_attempts_are_named(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.configure(max_retries=1)
    ran = desk.base / "ran"
    desk.shell(f"{NOTES}[ -e {ran} ] && printf 'the second time\\n' >note-thread; touch {ran}; exit 1")
    sent = desk.send(thread="t")
    desk.once()
    desk.once(FakeClock(time.time() + 3600))
    changes = note_changes(desk.place())
    assert {one.after for one in changes} == {"what was learned\n", "the second time\n", "for all\n"}
    show_stuck(sent, desk.workdir)
    told = capsys.readouterr().err
    assert [one for one in changes if f"agent-mailer memory apply {one.id}" not in told] == []


def test_a_rerun_that_writes_the_note_anew_is_not_mistaken_for_what_was_kept(desk: Desk) -> None:
    ran = desk.base / "ran"
    desk.shell(f"{NOTES}[ -e {ran} ] && {{ echo done; exit 0; }}; touch {ran}; exit 1")
    desk.send(thread="t")
    desk.once()
    assert not (desk.state / "memory" / "t.md").exists()
    desk.once(FakeClock(time.time() + 3600))
    assert (desk.state / "memory" / "t.md").read_text() == "what was learned\n"
    changes = type_in(desk.workdir, "memory", "log", "--thread", "t", "--json").json["changes"]
    assert [one["how"] for one in changes] == ["tool", "kept"]


@pytest.mark.parametrize(("verb", "end"), [("revert", "echo done"), ("apply", "exit 1")])
def test_while_any_turn_runs_no_change_of_the_note_of_all_threads_is_made_or_undone(
    desk: Desk, verb: str, end: str
) -> None:
    """That turn may write the note when it ends; of the note of another thread it knows nothing."""
    memory = desk.state / "memory"
    memory.mkdir(mode=0o700)
    for name in ("global.md", "t.md"):
        (memory / name).write_text("before\n")
    desk.configure(max_retries=0)
    desk.shell(NOTES + end)
    desk.send(thread="t")
    desk.once()
    found = {one["note"]: one for one in type_in(desk.workdir, "memory", "log", "--json").json["changes"]}
    place = desk.place()
    lock = place.lock()
    lock.acquire()
    try:
        place.prepare()
        runs = TurnRecord(new_turn_id(NOW), Envelope("m", "other", "user", NOW, "", ""), Phase.RUNNING, "command", NOW)
        place.state.turns.create(runs)
        refused = type_in(desk.workdir, "memory", verb, found["global.md"]["id"])
        assert (refused.status, f"turn {runs.turn_id} runs, and may write this note" in refused.err) == (75, True)
        assert type_in(desk.workdir, "memory", verb, found["t.md"]["id"]).status == 0
    finally:
        lock.release()
    assert type_in(desk.workdir, "memory", verb, found["global.md"]["id"]).status == 0, "where nobody is at work"


def test_what_a_person_changed_is_not_undone_or_made_again_while_a_turn_of_that_thread_runs(desk: Desk) -> None:
    """Nothing but the note's file says then of which thread it is."""
    for _ in range(2):
        assert type_in(desk.workdir, "memory", "edit", "--thread", "Paint: red", env=APPEND).status == 0
    place = desk.place()
    note = memory_file(place.folder.memory, "Paint: red")
    first, second = note.read_text().removesuffix("mine\n"), note.read_text()
    change = max(note_changes(place), key=lambda one: len(one.after or "")).id
    lock = place.lock()
    lock.acquire()
    try:
        place.prepare()
        for verb, before, after in (("revert", second, first), ("apply", first, second)):
            turns = [
                TurnRecord(
                    new_turn_id(NOW), Envelope(thread, thread, "user", NOW, "", ""), Phase.RUNNING, "command", NOW
                )
                for thread in ("another", "Paint: red")
            ]
            for turn in turns:
                place.state.turns.create(turn)
            refused = type_in(desk.workdir, "memory", verb, change)
            assert (refused.status, f"turn {turns[1].turn_id} runs" in refused.err) == (75, True), verb
            assert note.read_text() == before
            place.state.turns.remove([turns[1].turn_id])
            assert type_in(desk.workdir, "memory", verb, change).status == 0, "of another thread it knows nothing"
            assert note.read_text() == after
    finally:
        lock.release()
