"""State that is damaged, foreign, out of time or out of reach: the mail is settled, nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.crash.faults import FaultySystem, Lasting
from tests.crash.recording import QuickSystem
from tests.desk import CLI, Desk, outcomes, until
from tests.sizes import LONG, thinned
from tests.typed import type_in

from agent_mailer.clock import iso
from agent_mailer.errors import BusyFault
from agent_mailer.events import EventName, LogRecord
from agent_mailer.mailbox.port import Envelope
from agent_mailer.names import new_turn_id
from agent_mailer.process.handle import ProcessIdentity, identify, is_alive
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.watch.watcher import Watcher

GARBAGE = {
    "empty": b"",
    "NULs": b"\0" * 4096,
    "random": bytes(range(256)) * 3,
    "another type": b'[["\\u0000", 1, null]]\n',
    "deep": b'{"x": ' + b"[" * 100_000,
}
THREAD = "p2p/coder__user"


def contents(base: Path) -> dict[str, bytes]:
    return {str(p.relative_to(base)): p.read_bytes() for p in sorted(base.rglob("*")) if p.is_file()}


def damaged(events: Sequence[LogRecord]) -> list[str]:
    return [str(e.fields["file"]) for e in events if e.event is EventName.STATE_DAMAGED]


class Seasoned:
    """A desk with a past: a settled message, one that failed once, a dead one, a session, usage; and one that waits."""

    def __init__(self, base: Path, template: Path | None = None) -> None:
        self.desk = desk = Desk(base)
        # Due whatever the jitter, without waiting.
        self.later = FakeClock()
        self.later.moment += 10
        if template is None:
            self._live()
            return
        for name in ("mail", "coder"):
            shutil.rmtree(base / name)
            shutil.copytree(template / name, base / name, symlinks=True)
        self.ids: dict[str, str] = json.loads((template / "ids.json").read_text())
        desk.configure(command_output="jsonl")
        self._works()

    def _live(self) -> None:
        desk = self.desk
        desk.configure(command_output="jsonl", max_retries=1)
        self._works()
        self.ids = {"settled": desk.send(thread=THREAD)}
        desk.once()
        desk.shell("cat >/dev/null; exit 1")
        desk.configure(max_retries=0)
        self.ids["dead"] = desk.send(thread="dead")
        desk.once()
        desk.configure(max_retries=1)
        self.ids["failed"] = desk.send(thread="failed")
        desk.once()
        self.ids["waiting"] = desk.send(thread="new")
        assert [e["outcome"] for e in desk.log(EventName.TURN_ENDED)] == ["done", "failed", "failed"]
        (desk.base / "ids.json").write_text(json.dumps(self.ids))

    def _works(self) -> None:
        self.desk.shell_that_tells(
            """echo '{"type":"session","id":"s-1"}'; echo '{"type":"result","outcome":"done","text":"ok"}'"""
        )

    def recovers(self) -> list[LogRecord]:
        """Everything that is to be done is done, once; another run finds nothing."""
        desk = self.desk
        outside = {p.name for p in desk.base.iterdir()}
        events = desk.once(self.later, QuickSystem())
        assert sorted(outcomes(events)) == ["done", "done"]
        ran = {mark["message"]: mark["attempt"] for mark in desk.marks()}
        assert ran == {self.ids["waiting"]: "1", self.ids["failed"]: "2"}
        assert len(desk.marks()) == 2
        settled = (desk.state / "processed.txt").read_text("utf-8", "replace").split("\n")
        for name in ("waiting", "failed"):
            assert settled.count(self.ids[name]) == 1
        bodies = [m.body for m in desk.inbox() if m.refs and m.refs[0] in (self.ids["waiting"], self.ids["failed"])]
        assert bodies == ["ok\n", "ok\n"]
        again = desk.once(self.later, QuickSystem())
        assert outcomes(again) == []
        assert damaged(again) == []
        assert {p.name for p in desk.base.iterdir()} - outside <= {"witness.jsonl"}
        assert {p.name for p in desk.workdir.iterdir()} == {".agent-mailer"}
        return events


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Seasoned(tmp_path_factory.mktemp("seasoned")).desk.base


@pytest.fixture
def seasoned(tmp_path: Path, template: Path) -> Seasoned:
    return Seasoned(tmp_path, template)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_an_undamaged_past_is_no_damage(seasoned: Seasoned) -> None:
    assert damaged(seasoned.recovers()) == []
    assert not list(seasoned.desk.state.rglob("*.corrupt-*"))


JSON_FILES = ["format", "sessions.json", "retries.json", "usage.json", "pause.json"]
OTHER_FILES = ["inflight.json", "cursor.txt", "processed.txt", "sessions.journal", "dead_letter.jsonl", "log.jsonl"]


@pytest.mark.parametrize("garbage", thinned(GARBAGE))
@pytest.mark.parametrize("name", JSON_FILES)
def test_a_garbled_file_is_kept_aside_told_of_and_made_anew(seasoned: Seasoned, name: str, garbage: str) -> None:
    (seasoned.desk.state / name).write_bytes(GARBAGE[garbage])
    assert damaged(seasoned.recovers()) == [name]
    [aside] = seasoned.desk.state.glob(f"{name}.corrupt-*")
    assert aside.read_bytes() == GARBAGE[garbage]


@pytest.mark.parametrize("garbage", ["NULs", "random", "deep"])
@pytest.mark.parametrize("name", thinned([*OTHER_FILES, ".lock"]))
def test_a_garbled_list_loses_no_message(seasoned: Seasoned, name: str, garbage: str) -> None:
    (seasoned.desk.state / name).write_bytes(GARBAGE[garbage])
    seasoned.recovers()


@pytest.mark.parametrize("name", ["sessions.json", "retries.json", "usage.json"])
def test_a_file_torn_anywhere_is_made_anew(tmp_path: Path, template: Path, name: str) -> None:
    whole = (template / "coder/.agent-mailer" / name).read_bytes().rstrip()
    for number, length in enumerate((1, len(whole) // 2, len(whole) - 1)):
        again = Seasoned(tmp_path / f"{number}", template)
        (again.desk.state / name).write_bytes(whole[:length])
        assert damaged(again.recovers()) == [name]


@pytest.mark.parametrize("name", [*JSON_FILES, *OTHER_FILES])
def test_a_file_cut_in_the_middle_and_continued_by_nuls(seasoned: Seasoned, name: str) -> None:
    """What a power failure leaves on some file systems."""
    path = seasoned.desk.state / name
    content = path.read_bytes() if path.exists() else b""
    path.write_bytes(content[: len(content) // 2] + b"\0" * 512)
    seasoned.recovers()


@pytest.mark.parametrize("what", thinned(["fifo", "folder"]))
@pytest.mark.parametrize("name", [*JSON_FILES, *OTHER_FILES, "turns/notes", "requests/1.json"])
def test_something_else_in_a_files_place_is_never_waited_for(seasoned: Seasoned, name: str, what: str) -> None:
    path = seasoned.desk.state / name
    path.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    seasoned.recovers()


@pytest.mark.parametrize("name", ["turns", "memory", "requests"])
def test_a_file_in_a_folders_place_is_set_aside(desk: Desk, name: str) -> None:
    desk.send()
    (desk.state / name).write_text("not a folder")
    events = desk.once()
    assert outcomes(events) == ["done"]
    assert damaged(events) == [name]


@pytest.mark.parametrize("text", ["crlf", "unterminated", "no UTF-8", "blank lines"])
def test_settled_ids_written_otherwise_are_still_settled(seasoned: Seasoned, text: str) -> None:
    """Put back by hand: the settled one is set aside and not done again."""
    desk, sent = seasoned.desk, seasoned.ids["settled"]
    path = desk.state / "processed.txt"
    path.write_bytes(
        {
            "crlf": path.read_bytes().replace(b"\n", b"\r\n"),
            "unterminated": path.read_bytes().rstrip(b"\n"),
            "no UTF-8": b"\xff\xfe\n" + path.read_bytes() + b"\xc3\n",
            "blank lines": b"\n\n" + path.read_bytes() + b"\n\n",
        }[text]
    )
    inbox = desk.root / "agents/coder/inbox"
    shutil.copy(inbox / f"cur/{sent}.md", inbox / f"new/{sent}.md")
    events = seasoned.recovers()
    assert [e.fields["message_id"] for e in events if e.event is EventName.MESSAGE_SET_ASIDE] == [sent]


@pytest.mark.parametrize("moment", [-1e300, 1.8e12])
def test_a_moment_that_no_calendar_has_ends_neither_a_watcher_nor_who_looks(desk: Desk, moment: float) -> None:
    """Whoever else writes there counts in milliseconds, say."""
    desk.tell()
    lost = {"id": "m", "thread": "t", "sender": "user", "created": moment, "order": "1", "locator": "m.md"}
    died = {"turn_id": "t", "outcome": "failed", "detail": "x", "at": moment}
    forged: dict[str, object] = {
        "stuck.jsonl": {"kind": "not-fetched", "key": "m", "at": moment, "envelope": lost, "sender": "user"}
        | {"unheard": True},
        "dead_letter.jsonl": {"msg_id": "d", "thread_id": "t", "envelope": lost | {"id": "d"}, "history": [died]},
        "retries.json": {"r": {"envelope": lost | {"id": "r"}, "not_before": 4e9, "history": [died]}},
        "pause.json": {"reason": "signed_out", "since": moment, "until": moment},
    }
    for name, content in forged.items():
        (desk.state / name).write_text(json.dumps(content) + "\n")
    mail = desk.send()
    desk.once()
    for words in ("status", "stuck list", "stuck show m", "dead-letter list", "status --json"):
        assert "fault of agent-mailer" not in type_in(desk.workdir, *words.split()).err, words
    (desk.state / "pause.json").unlink(missing_ok=True)
    desk.once()
    assert mail in desk.place().state.processed


def test_a_message_under_retry_survives_a_damage_that_a_command_meets_first(seasoned: Seasoned) -> None:
    """The command writes retries.json for its own message; what was in it must not be gone with that."""
    desk = seasoned.desk
    (desk.state / "retries.json").write_bytes(b"garbage")
    done = subprocess.run(
        [*CLI, "dead-letter", "retry", seasoned.ids["dead"], "--workdir", str(desk.workdir)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done
    assert outcomes(desk.once(seasoned.later)) == ["done"] * 3
    assert {mark["message"] for mark in desk.marks()} == {seasoned.ids[n] for n in ("dead", "failed", "waiting")}


@LONG
def test_looking_changes_nothing(seasoned: Seasoned) -> None:
    """Read commands and a dry run leave every damage where the watcher will find it."""
    desk = seasoned.desk
    for name in ("retries.json", "sessions.json", "format", "inflight.json"):
        (desk.state / name).write_bytes(b"garbage")
    before = contents(desk.base)
    for words in (["status"], ["sessions", "list"], ["dead-letter", "list"], ["turns", "list"], ["watch", "--dry-run"]):
        done = subprocess.run(
            [*CLI, *words, "--workdir", str(desk.workdir)], capture_output=True, check=False, timeout=60
        )
        assert done.returncode == (1 if words == ["status"] else 0), (words, done)
        assert contents(desk.base) == before, words
    assert set(damaged(seasoned.recovers())) == {"retries.json", "sessions.json", "format"}


@pytest.mark.parametrize("text", ["2\n", "99"])
def test_a_newer_format_is_refused_and_untouched(seasoned: Seasoned, text: str) -> None:
    desk = seasoned.desk
    (desk.state / "format").write_text(text)
    before = contents(desk.base)
    done = subprocess.run(
        [*CLI, "watch", "--once", "--no-interactive", "--workdir", str(desk.workdir)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 78
    assert b"newer agent-mailer" in done.stderr
    assert contents(desk.base) == before


# Turns.


class OpenTurn:
    """A turn that a watcher left open, with a process that is its agent's or nothing."""

    def __init__(self, desk: Desk, *, running: bool) -> None:
        self.desk = desk
        self.sent = desk.send("the task")
        place = desk.place()
        place.prepare()
        inbox = desk.root / "agents/coder/inbox"
        self.envelope = self._envelope()
        (inbox / f"new/{self.sent}.md").rename(inbox / f"cur/{self.sent}.md")
        turns = place.state.turns
        self.record = TurnRecord(new_turn_id(time.time()), self.envelope, Phase.CLAIMED, "command", 1.0)
        turns.create(self.record)
        self.path = turns.path(self.record.turn_id)
        self.process: subprocess.Popen[bytes] | None = None
        if running:
            environment = {**os.environ, "AGENT_MAILER_TURN_ID": self.record.turn_id}
            self.process = subprocess.Popen(["/bin/sleep", "600"], env=environment, start_new_session=True)
            self.record.process = self.identity
            self.record.phase = Phase.RUNNING
            self.record.started_at = 2.0
            turns.save(self.record)

    def _envelope(self) -> Envelope:
        from agent_mailer.mailbox.maildir.format import parse_envelope

        name = f"{self.sent}.md"
        found = parse_envelope((self.desk.root / "agents/coder/inbox/new" / name).read_bytes(), name)
        assert isinstance(found, Envelope)
        return found

    @property
    def identity(self) -> ProcessIdentity:
        assert self.process is not None
        found = identify(self.process.pid)
        assert found is not None
        return found

    def settles(self) -> list[LogRecord]:
        """The message runs and is settled; nothing of the old turn lives on."""
        desk = self.desk
        desk.shell_that_tells("echo ok")
        events = desk.once()
        assert outcomes(events)[-1] == "done"
        assert [mark["message"] for mark in desk.marks()] == [self.sent]
        assert (desk.state / "processed.txt").read_text() == f"{self.sent}\n"
        assert [m.body for m in desk.inbox()] == ["ok\n"]
        if self.process is not None:
            assert self.process.wait(30) != 0
        assert outcomes(desk.once()) == []
        return events

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(params=[False, True], ids=["claimed", "running"])
def open_turn(desk: Desk, request: pytest.FixtureRequest) -> Iterator[OpenTurn]:
    turn = OpenTurn(desk, running=request.param)
    yield turn
    turn.close()


TURN_GARBAGE = {**GARBAGE, "torn": b'{"turn_id": "2026'}


@pytest.mark.parametrize("garbage", list(TURN_GARBAGE))
def test_a_turn_whose_record_is_garbled_gives_its_message_back(open_turn: OpenTurn, garbage: str) -> None:
    (open_turn.path / "turn.json").write_bytes(TURN_GARBAGE[garbage])
    events = open_turn.settles()
    assert damaged(events) == ["turn.json"]
    [dropped] = [e for e in events if e.event is EventName.TURN_DROPPED]
    assert dropped.fields["message_id"] == open_turn.sent
    [aside] = open_turn.path.glob("turn.json.corrupt-*")
    assert aside.read_bytes() == TURN_GARBAGE[garbage]


@pytest.mark.parametrize("what", ["fifo", "folder", "link", "nothing", "another turn's"])
def test_a_turn_without_a_record_of_its_own_gives_its_message_back(open_turn: OpenTurn, what: str) -> None:
    path = open_turn.path / "turn.json"
    content = path.read_bytes()
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "link":
        (open_turn.desk.base / "record").write_bytes(content)
        path.symlink_to(open_turn.desk.base / "record")
    elif what == "another turn's":
        path.write_bytes(content.replace(open_turn.record.turn_id.encode(), b"../../../../x"))
    open_turn.settles()


def test_two_garbled_records_give_both_messages_back(desk: Desk) -> None:
    """Salvaging one must not take away what the index tells of the other."""
    turns = [OpenTurn(desk, running=False), OpenTurn(desk, running=False)]
    for turn in turns:
        (turn.path / "turn.json").write_bytes(b"torn")
    desk.script({"witness": "ran"})
    assert outcomes(desk.once()) == ["done", "done"]
    assert {mark["message"] for mark in desk.marks()} == {turn.sent for turn in turns}


def test_a_garbled_record_and_index_are_made_good_by_the_mail_in_the_folder(desk: Desk) -> None:
    """The agent of a turn that did start has its mail in a file."""
    turn = OpenTurn(desk, running=False)
    from agent_mailer.disk import Disk
    from agent_mailer.mailbox.port import Message
    from agent_mailer.turn_tools.folder import Facts, TurnFolder

    facts = Facts(turn.record.turn_id, "coder", 1_000_000, "g", "t")
    TurnFolder(turn.path, Disk()).prepare(Message(turn.envelope), [], [], facts)
    (turn.path / "turn.json").write_bytes(b"torn")
    (desk.state / "inflight.json").write_bytes(b"torn")
    turn.settles()


@pytest.mark.parametrize("name", ["mail.json", "message.md", "prompt.md", "outbox", "stdout", "exit", "started"])
@pytest.mark.parametrize("garbage", ["random", "deep"])
def test_garbage_beside_the_record_loses_nothing(desk: Desk, name: str, garbage: str) -> None:
    turn = OpenTurn(desk, running=False)
    (turn.path / name).write_bytes(GARBAGE[garbage])
    turn.settles()


def test_a_settled_message_is_not_given_back_by_a_garbled_record(desk: Desk) -> None:
    """Settled, but the marker was lost and the record is garbage: the id is known."""
    desk.script({"witness": "ran"})
    desk.send()
    desk.once()
    [turn] = (desk.state / "turns").iterdir()
    (turn / "settled").unlink()
    (turn / "turn.json").write_bytes(b"torn")
    assert outcomes(desk.once()) == []
    assert len(desk.marks()) == 1


@pytest.mark.parametrize(
    ("mischief", "ends"),
    [
        ("rm stdout; mkfifo stdout", ["failed"]),
        ("rm stdout; ln -s $SECRET stdout", ["failed"]),
        ("rm stdout; mkdir stdout", ["failed"]),
        ("rm stderr; mkfifo stderr; exit 1", ["failed"]),
        ("rm -r outbox; ln -s $OUTSIDE outbox", ["done"]),
        ("rm -r outbox; echo x >outbox", ["done"]),
        ("rm -r outbox; mkfifo outbox", ["done"]),
        ("mkdir outbox.sealed", ["done"]),
        ("ln -s $OUTSIDE outbox.sealed", ["done"]),
        ("mkfifo outbox/x.json outbox/finish", ["done"]),
        ("ln -s $SECRET outbox/x.json", ["done"]),
        ("echo '{' >outbox/x.json; echo '[' >outbox/finish", ["done"]),
        ("mkdir exit", ["crashed"]),
        ("rm mail.json; mkfifo mail.json", ["done"]),
        ("echo garbage >turn.json; rm prompt.md", ["done"]),
        ("rm turn.json; mkdir turn.json", ["done"]),
        ("cd ..; rm -r $AGENT_MAILER_TURN_DIR", None),
        ("mkdir settled", ["done"]),
    ],
)
def test_what_an_agent_does_to_its_own_turn_hangs_nobody_and_reveals_nothing(
    desk: Desk, mischief: str, ends: list[str] | None
) -> None:
    outside = desk.base / "outside"
    outside.mkdir()
    secret = outside / "secret.json"
    forged = {"key": "x", "action": "send", "created": 1.0, "to": ["user"], "body": "the secret"}
    secret.write_text(json.dumps(forged))
    before = contents(outside)
    mischief = mischief.replace("$SECRET", str(secret)).replace("$OUTSIDE", str(outside))
    desk.shell(f"cat >/dev/null; echo fine; cd $AGENT_MAILER_TURN_DIR; {mischief}")
    sent = desk.send()
    ended = outcomes(desk.once())
    if ends is not None:
        assert ended == ends
    desk.shell("cat >/dev/null; echo fine")
    later = FakeClock()
    later.moment += 10
    desk.resume()
    desk.once(later)
    desk.once(later)
    assert (desk.state / "processed.txt").read_text() == f"{sent}\n"
    assert not any("secret" in message.body for message in desk.inbox())
    assert len(desk.inbox()) <= 1
    assert contents(outside) == before


# Another client's folder.


def foreign(desk: Desk, *, tries: dict[str, int]) -> None:
    """The state of an AMP client, as it writes it."""
    now = iso(FakeClock().now() - 3600).replace("Z", "+00:00")
    session = {"first_seen_at": now, "last_used_at": now, "session_id": "amp-session", "turn_count": 3}
    letters = [
        {"msg_id": "dead-1", "thread_id": "t", "retries": 3, "last_error": "boom", "stuck_at": now},
        {"ts": now, "msg_id": "dead-2"},
    ]
    inflight = {"msg_id": "old-1", "thread_id": "t", "started_at": now, "retry_count": 0}
    log = {"ts": now, "event": "poll_inbox", "total": 1, "unread": 1, "new": 1, "dead_letter": 0}
    for name, content in {
        "retries.json": json.dumps(tries, indent=2, sort_keys=True),
        "sessions.json": json.dumps({THREAD: session}, indent=2, sort_keys=True),
        "dead_letter.jsonl": "".join(json.dumps(letter) + "\n" for letter in letters),
        "inflight.json": json.dumps(inflight, indent=2),
        ".lock": "pid=12424\n99\n",
        "processed.txt": "old-1\ndead-1\ndead-2\n",
        "cursor.txt": "old-1\n",
        "log.jsonl": json.dumps(log) + "\n",
        "partial_setup_pending": "{}",
        ".tmp.sessions.json": "half",
    }.items():
        (desk.state / name).write_text(content)
        (desk.state / name).chmod(0o644)
    (desk.state / "memory").mkdir(mode=0o700)
    (desk.state / "memory/global.md").write_text("# Global Memory for coder\n")


def test_the_folder_of_another_client_is_taken_over(desk: Desk) -> None:
    sent = desk.send(thread=THREAD)
    foreign(desk, tries={sent: 2, "other": 1})
    desk.configure(command_output="jsonl", infiniti_command="x", agent_id="0d5e")
    desk.script(
        {"witness": "ran"},
        {"emit": {"type": "session", "id": "amp-session"}},
        {"emit": {"type": "result", "outcome": "done", "text": "ok"}},
    )
    events = desk.once()
    assert outcomes(events) == ["done"]
    assert damaged(events) == []
    assert not list(desk.state.rglob("*.corrupt-*"))
    [mark] = desk.marks()
    assert (mark["session"], mark["attempt"]) == ("amp-session", "3")
    session = json.loads((desk.state / "sessions.json").read_text())[THREAD]
    assert (session["session_id"], session["turn_count"]) == ("amp-session", 4)
    assert (desk.state / "processed.txt").read_text() == f"old-1\ndead-1\ndead-2\n{sent}\n"
    assert json.loads((desk.state / "retries.json").read_text()) == {"other": 1}
    assert (desk.state / "memory/global.md").read_text() == "# Global Memory for coder\n"
    assert (desk.state / "partial_setup_pending").exists()
    assert not (desk.state / ".tmp.sessions.json").exists()
    assert [letter.msg_id for letter in desk.place().state.dead_letters.all()] == ["dead-1", "dead-2"]


def test_what_another_client_counted_counts(desk: Desk) -> None:
    sent = desk.send()
    foreign(desk, tries={sent: 3})
    desk.shell("cat >/dev/null; exit 1")
    assert outcomes(desk.once()) == ["failed"]
    [*_, letter] = desk.place().state.dead_letters.all()
    assert (letter.msg_id, letter.retries) == (sent, 3)
    assert json.loads((desk.state / "retries.json").read_text()) == {}


def inflight(desk: Desk, **changes: object) -> None:
    """A run of the other client that was cut off."""
    record = {"msg_id": "m", "thread_id": THREAD, "started_at": "2026-01-01T00:00:00+00:00", "retry_count": 0}
    (desk.state / "inflight.json").write_text(json.dumps(record | changes, indent=2))


@pytest.mark.parametrize("crash_before", ["nothing", "inflight.json is emptied"])
def test_a_take_over_is_done_once(desk: Desk, crash_before: str) -> None:
    inflight(desk, started_at=4e12, retry_count=10**9)
    before = (desk.state / "inflight.json").read_bytes()
    desk.place().prepare()
    if crash_before != "nothing":
        (desk.state / "inflight.json").write_bytes(before)
    place = desk.place()
    place.prepare()
    [entry] = place.state.retries.all()
    assert (entry.envelope.id, entry.attempts, entry.starts, entry.revision) == ("m", 1000, 1001, 0)
    assert entry.envelope.created <= place.clock.now()
    assert not (desk.state / "inflight.json").exists(), "the other client fails over an empty one"


@pytest.mark.parametrize("content", ["[]", '{"msg_id": 5}', '{"msg_id": ""}', "{", '{"msg_id": null}', "\0"])
def test_a_record_that_is_none_takes_nothing_over(desk: Desk, content: str) -> None:
    (desk.state / "inflight.json").write_text(content)
    assert outcomes(desk.once()) == []


def test_the_agent_of_another_client_that_still_runs_is_waited_for(desk: Desk) -> None:
    inflight(desk, msg_id="7d0c2a9e-left-alone", thread_id="another")
    desk.send()
    words = ["sh", "-c", "read line", "claude", "Message: 7d0c2a9e-left-alone"]
    # It is known by its folder, by whatever way that is reached.
    desk.workdir = desk.base / "by-a-link"
    desk.workdir.symlink_to(desk.base / "coder")
    with subprocess.Popen(words, cwd=desk.base / "coder", stdin=subprocess.PIPE) as agent:
        with pytest.raises(BusyFault) as raised:
            desk.once()
        assert f"kill {agent.pid}" in raised.value.fix
        assert agent.poll() is None
        agent.communicate(b"\n")
    assert outcomes(desk.once()) == ["failed", "done"]


def test_who_asks_for_the_message_by_its_id_is_no_agent_of_another_client(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk.workdir)
    # What is a word of our own command line, as it is of `agent-mailer mail read ID`.
    named = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode()
    inflight(desk, msg_id=named, retry_count=1)
    (desk.state / "retries.json").write_text(json.dumps({named: 4}))
    place = desk.place()
    place.prepare()
    [entry] = place.state.retries.all()
    assert (entry.envelope.id, entry.attempts) == (named, 4), "the more that it was tried counts"


# Disks.


@pytest.mark.parametrize("code", thinned([errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES]))
def test_a_disk_that_takes_nothing_costs_nothing(desk: Desk, code: int) -> None:
    """Nothing can be claimed, so nothing starts; the mail waits in its mailbox."""
    desk.script({"witness": "ran"})
    desk.once()
    desk.send()
    place = desk.place()
    events: list[LogRecord] = []
    place.log.listen(events.append)
    lock = place.lock()
    lock.acquire()
    place.prepare()
    before = contents(desk.base)
    place.disk.system = FaultySystem(1, code, Lasting.FROM_THEN_ON)
    try:
        watcher = Watcher(place.room(lock), once=True)
        asyncio.run(watcher.run())
    finally:
        lock.release()
    assert watcher.failed
    assert os.strerror(code) in str([e.fields["why"] for e in events if e.event is EventName.STATE_TROUBLE])
    after = contents(desk.base)
    assert {k: v for k, v in after.items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }
    assert desk.marks() == []
    assert outcomes(desk.once()) == ["done"]
    assert len(desk.marks()) == 1


MOUNTED = """\
set -e
mount -t tmpfs -o size=256k,mode=0700 tmpfs "$STATE"
cp "$CONFIG" "$STATE/config.toml"; chmod 600 "$STATE/config.toml"
run() { set +e; eval "$WATCH" >"$OUT.$name" 2>&1; echo "$?" >"$OUT.$name.status"; set -e; }
name=before; run
cp "$MAIL.saved" "$MAIL"
name=full; dd if=/dev/zero of="$STATE/filler" bs=1k 2>/dev/null || true; run
rm "$STATE/filler"
name=readonly; mount -o remount,ro "$STATE"; run
mount -o remount,rw "$STATE"
name=after; run
cp "$STATE/processed.txt" "$OUT.processed"
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="no mount namespace can be made here (needs root and unshare)",
)
@LONG
def test_a_real_disk_that_is_full_or_read_only(desk: Desk) -> None:
    desk.script({"witness": "ran"}, {"print": "ok"})
    first = desk.send()
    second = desk.send()
    mail = desk.root / f"agents/coder/inbox/new/{second}.md"
    mail.rename(f"{mail}.saved")
    shutil.move(f"{mail}.saved", desk.base / "second.saved")
    out = desk.base / "out"
    config = desk.base / "config.toml"
    shutil.move(desk.state / "config.toml", config)
    script = MOUNTED.replace('"$MAIL.saved"', '"$SAVED"')
    words = [*CLI, "watch", "--once", "--no-interactive", "--workdir", str(desk.workdir)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        env={
            **os.environ,
            "STATE": str(desk.state),
            "CONFIG": str(config),
            "OUT": str(out),
            "MAIL": str(mail),
            "SAVED": str(desk.base / "second.saved"),
            "WATCH": shlex.join(words),
        },
        capture_output=True,
        check=False,
        timeout=120,
    )
    if done.returncode != 0 and b"mount" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.decode().strip()}")
    assert done.returncode == 0, done
    said = {name: Path(f"{out}.{name}").read_text() for name in ("before", "full", "readonly", "after")}
    status = {name: int(Path(f"{out}.{name}.status").read_text()) for name in said}
    assert status == {"before": 0, "full": 1, "readonly": 1, "after": 0}, said
    assert "No space left on device" in said["full"]
    assert "Read-only file system" in said["readonly"]
    assert not any("Traceback" in text for text in said.values())
    assert [mark["message"] for mark in desk.marks()] == [first, second]
    assert Path(f"{out}.processed").read_text() == f"{first}\n{second}\n"
    assert len(desk.inbox()) == 2


# Places that vanish.


def test_a_workdir_that_vanishes_ends_the_watcher_and_loses_nothing(desk: Desk) -> None:
    elsewhere = desk.base / "elsewhere"
    complaints = desk.base / "stderr"
    with complaints.open("wb") as stderr, desk.watching(stderr=stderr) as watcher:
        until(lambda: desk.log(EventName.WATCH_STARTED), "the start")
        desk.workdir.rename(elsewhere)
        sent = desk.send()
        assert watcher.wait(30) == 78
    assert f"error: {desk.state} has vanished" in complaints.read_text()
    assert "fix: " in complaints.read_text()
    assert not desk.workdir.exists()
    assert (desk.root / f"agents/coder/inbox/new/{sent}.md").exists()
    elsewhere.rename(desk.workdir)
    assert outcomes(desk.once()) == ["done"]


def test_a_workdir_that_vanishes_under_a_running_turn(desk: Desk) -> None:
    """Nothing is made in its place; when it is back the message is still to be done."""
    go, elsewhere = desk.base / "go", desk.base / "elsewhere"
    desk.script({"witness": "ran"}, {"wait_for": str(go)})
    sent = desk.send()
    complaints = desk.base / "stderr"
    with complaints.open("wb") as stderr, desk.watching(stderr=stderr) as watcher:
        until(desk.marks, "the agent's start")
        desk.workdir.rename(elsewhere)
        go.touch()
        assert watcher.wait(30) == 78
    assert "has vanished" in complaints.read_text()
    assert not desk.workdir.exists()
    elsewhere.rename(desk.workdir)
    later = FakeClock()
    later.moment += 10
    desk.once()
    desk.once(later)
    assert (desk.state / "processed.txt").read_text() == f"{sent}\n"


def test_a_watcher_whose_lock_was_replaced_claims_nothing_more(desk: Desk) -> None:
    """Another watcher may hold the new one: what waits is that one's."""
    desk.script({"witness": "ran"})
    sent = desk.send()
    place = desk.place()
    lock = place.lock()
    lock.acquire()
    try:
        place.prepare()
        (desk.state / ".lock").rename(desk.base / "old lock")
        (desk.state / ".lock").touch()

        async def run() -> None:
            await Watcher(place.room(lock), once=True).run()

        with pytest.raises(BusyFault, match="no longer the file we hold"):
            asyncio.run(run())
    finally:
        lock.release()
        desk.end_turns()
    assert (desk.root / f"agents/coder/inbox/new/{sent}.md").exists()
    assert os.listdir(desk.state / "turns") == []
    assert desk.marks() == []


@LONG
def test_a_mailbox_that_vanishes_and_comes_back(desk: Desk) -> None:
    desk.configure(poll_interval_idle=1)
    desk.script({"witness": "ran"}, {"print": "ok"})
    elsewhere = desk.base / "elsewhere"
    first = desk.send()
    with desk.watching() as watcher:
        until(lambda: desk.log(EventName.MESSAGE_DONE), "the first settlement")
        desk.root.rename(elsewhere)
        until(lambda: desk.log(EventName.MAILBOX_TROUBLE), "the trouble")
        assert not desk.root.exists()
        elsewhere.rename(desk.root)
        sent = desk.send()
        until(lambda: len(desk.log(EventName.MESSAGE_DONE)) == 2, "the settlement")
        until(lambda: desk.log(EventName.MAILBOX_BACK), "the word that it is back")
        assert watcher.poll() is None
    assert [mark["message"] for mark in desk.marks()] == [first, sent]


def test_a_watcher_waits_for_a_mailbox_that_cannot_be_used_at_its_start(desk: Desk) -> None:
    sent = desk.send()
    place = desk.place()
    heard: list[EventName] = []
    lock = place.lock()
    lock.acquire()
    place.prepare()
    place.disk.system = FaultySystem(1, errno.EIO, Lasting.ONCE)

    async def run() -> None:
        # The first call is the mailbox's: nothing is done for git.
        room = place.room(lock, msgspec.structs.replace(place.policy(), trouble_first=0.01, out_of_git=()))
        watcher = Watcher(room)

        def hear(event: LogRecord) -> None:
            heard.append(event.event)
            if event.event is EventName.MESSAGE_DONE:
                watcher.stop(5.0)

        place.log.listen(hear)
        await watcher.run()

    try:
        asyncio.run(run())
    finally:
        lock.release()
    trouble = [event for event in heard if event in (EventName.MAILBOX_TROUBLE, EventName.MAILBOX_BACK)]
    assert trouble == [EventName.MAILBOX_TROUBLE, EventName.MAILBOX_BACK]
    assert (desk.state / "processed.txt").read_text() == f"{sent}\n"


# Clocks.


YEAR = 365 * 86400.0


@pytest.mark.parametrize("jump", [-3600.0, -YEAR, YEAR], ids=["hour back", "year back", "year on"])
def test_a_clock_that_jumps_between_two_runs_holds_up_no_retry(desk: Desk, jump: float) -> None:
    clock = FakeClock()
    desk.script({"witness": "ran"}, attempts={"1": [{"witness": "ran"}, {"exit": 1}]})
    sent = desk.send()
    assert outcomes(desk.once(clock)) == ["failed"]
    clock.moment += jump
    assert outcomes(desk.once(clock)) == ["done"]
    assert [mark["attempt"] for mark in desk.marks()] == ["1", "2"]
    assert (desk.state / "processed.txt").read_text() == f"{sent}\n"
    assert outcomes(desk.once(FakeClock())) == []


def limited_until(desk: Desk, moment: float) -> None:
    limited = {"type": "result", "outcome": "limited", "detail": "quota", "retry_at": iso(moment)}
    desk.configure(command_output="jsonl")
    desk.script({"witness": "ran"}, attempts={"1": [{"emit": {"type": "progress", "text": "x"}}, {"emit": limited}]})


def test_a_pause_set_by_a_clock_that_ran_ahead_ends_now(desk: Desk) -> None:
    clock = FakeClock()
    clock.moment += YEAR
    limited_until(desk, clock.now() + 3600)
    desk.send()
    assert outcomes(desk.once(clock)) == ["limited"]
    assert outcomes(desk.once(clock)) == []
    desk.configure(command_output="text")
    desk.shell("cat >/dev/null; echo ok")
    # Back to the right time: the pause would last a year.
    assert outcomes(desk.once()) == ["done"]


def test_a_pause_holds_for_its_time_and_not_for_the_hour_the_clock_went_back(desk: Desk) -> None:
    clock = FakeClock()
    limited_until(desk, clock.now() + 3600)
    desk.send()
    assert outcomes(desk.once(clock)) == ["limited"]
    desk.configure(command_output="text")
    desk.shell("cat >/dev/null; echo ok")
    clock.moment += 3500
    assert outcomes(desk.once(clock)) == []
    clock.moment += 200
    assert outcomes(desk.once(clock)) == ["done"]


@pytest.mark.parametrize(
    ("jump", "resumed", "prompt"),
    [
        (-3600.0, "s-1", "A new mail has arrived in the thread of this session"),
        (-YEAR, None, "carries a date in the future"),
        (YEAR, None, "has expired after 7 days"),
    ],
)
def test_a_session_after_a_jump(desk: Desk, jump: float, resumed: str | None, prompt: str) -> None:
    clock = FakeClock()
    saved = desk.base / "prompt"
    desk.configure(command_output="jsonl")
    desk.script(
        {"save_prompt": str(saved)},
        {"witness": "ran"},
        {"emit": {"type": "session", "id": "s-1"}},
        {"emit": {"type": "result", "outcome": "done", "text": "ok"}},
    )
    for shift in (0.0, jump):
        clock.moment += shift
        desk.send(thread="t")
        assert outcomes(desk.once(clock)) == ["done"]
    assert [mark["session"] for mark in desk.marks()] == [None, resumed]
    assert prompt in saved.read_text()


def test_an_open_turn_from_the_future_is_finished(desk: Desk) -> None:
    clock = FakeClock()
    clock.moment += YEAR
    turn = OpenTurn(desk, running=False)
    record = msgspec.structs.replace(turn.record, claimed_at=clock.now(), started_at=clock.now())
    (turn.path / "turn.json").write_bytes(msgspec.json.encode(record))
    turn.settles()


# Ids.


ODD = ["../../x", "a/b", "x" * 300, "line\nbreak", "..", "-rf", "日本語", "\x1b[2J", "lone \ud800", "global", " blank "]


def put_by_hand(desk: Desk, file: str, **header: Any) -> None:
    fields = {"schema": 1, "from": "user", "to": ["coder"], "thread": "t", "created": "2026-01-01T00:00:00Z", **header}
    text = f"---json\n{json.dumps(fields)}\n---\nbody\n"
    (desk.root / "agents/coder/inbox/new" / file).write_text(text)


@pytest.mark.parametrize("odd", thinned(ODD))
@pytest.mark.parametrize("field", ["id", "thread", "subject"])
def test_odd_ids_stay_where_they_belong(desk: Desk, field: str, odd: str) -> None:
    """A message of such an id is settled or put away as unreadable; either way nothing is lost, and nothing escapes."""
    saved = desk.base / "prompt"
    desk.script({"save_prompt": str(saved)}, {"witness": "ran"}, {"exit": 1})
    desk.configure(max_retries=0)
    put_by_hand(desk, "odd.md", **{"id": "m-1", field: odd})
    before = {p.name for p in desk.base.iterdir()}
    events = desk.once()
    assert {p.name for p in desk.base.iterdir()} - before <= {"prompt", "witness.jsonl"}
    assert {p.name for p in desk.workdir.iterdir()} == {".agent-mailer"}
    kept = [p.name for p in (desk.state / "memory").iterdir()] + [p.name for p in (desk.state / "turns").iterdir()]
    assert all(name.isascii() and name.isprintable() for name in kept)
    if desk.marks():
        assert outcomes(events) == ["failed"]
        [letter] = desk.place().state.dead_letters.all()
        assert letter.envelope is not None
        assert letter.msg_id in desk.place().state.processed
        lines = saved.read_text().splitlines()
        assert [line.split(":")[0] for line in lines[:4]] == ["Message", "Thread", "From", "Project"]
        assert lines[4] == ""
        assert len(desk.inbox()) == 1
    else:
        assert [e.event for e in events if e.event is EventName.MESSAGE_UNREADABLE]
        assert len(list((desk.root / "agents/coder/dlq/new").iterdir())) == 1
    assert not any((desk.root / "agents/coder/inbox/new").iterdir())
    assert outcomes(desk.once()) == []
    for line in (desk.state / "log.jsonl").read_bytes().splitlines():
        assert b"\x1b" not in line
        json.loads(line)


def test_leftovers_of_a_process_are_not_ours_to_end(desk: Desk) -> None:
    """A record may name a pid that somebody else has by now: the start time and the boot tell."""
    turn = OpenTurn(desk, running=False)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        found = identify(stranger.pid)
        assert found is not None
        stale = msgspec.structs.replace(found, started=found.started - 1)
        record = msgspec.structs.replace(turn.record, process=stale, phase=Phase.RUNNING, started_at=2.0)
        (turn.path / "turn.json").write_bytes(msgspec.json.encode(record))
        (turn.path / "started").write_text("open\n")
        desk.script({"witness": "ran"})
        later = FakeClock()
        later.moment += 10
        desk.once(later)
        later.moment += 10
        desk.once(later)
        assert [mark["message"] for mark in desk.marks()] == [turn.sent]
        assert is_alive(found)
    finally:
        stranger.kill()
        stranger.wait()
