"""The turn's folder between the agent, who may put anything there, and the watcher, who must neither hang nor lose."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from agent_mailer.approvals import APPROVALS
from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.mailbox.port import Action, Automatic, Contact, Draft, Envelope, Kind, Message, Priority
from agent_mailer.mailbox.server_drafts import MAX_BODY_BYTES, beyond
from agent_mailer.names import new_turn_id
from agent_mailer.turn_tools import folder
from agent_mailer.turn_tools.commands import AgentMail
from agent_mailer.turn_tools.folder import (
    DOCUMENTS,
    MAX_NOTE_BYTES,
    MAX_STAGED,
    MESSAGE_TEXT,
    MOST_URGENT,
    NOTE_COPY,
    OUTBOX,
    SEALED,
    TEAM,
    TURN_TMP,
    URGENT,
    Facts,
    FinishKind,
    FinishNote,
    NoteScope,
    NoteWrite,
    TurnFolder,
    TurnOver,
    as_text,
)

MESSAGE = Message(Envelope("m-1", "t", "user", 1_700_000_000.0, "1", "m-1.md", to=("coder",)), "subject", "body\n")
HEADER_ROOM = 64 * 1024
FACTS = Facts("turn-1", "coder", 10 * 1024 * 1024, "/memory/global.md", "/memory/t.md")


@pytest.fixture
def turn(tmp_path: Path) -> TurnFolder:
    path = tmp_path / "turn-1"
    path.mkdir()
    folder = TurnFolder(path, Disk())
    folder.prepare(MESSAGE, [MESSAGE], [Contact("user")], FACTS)
    return folder


def draft(body: str = "hello", created: float = 5.0) -> Draft:
    return Draft("", Action.REPLY, created, body=body)


def by_hand(turn: TurnFolder, name: str, content: bytes) -> None:
    (turn.path / OUTBOX / name).write_bytes(content)


def test_what_is_prepared_is_read(turn: TurnFolder) -> None:
    assert turn.message() == MESSAGE
    assert list(turn.thread()) == [MESSAGE]
    assert list(turn.contacts()) == [Contact("user")]
    assert turn.facts() == FACTS
    assert "Subject: subject" in (turn.path / "message.md").read_text()


def test_headers_of_a_message_are_one_line_each() -> None:
    hostile = Message(
        msgspec.structs.replace(MESSAGE.envelope, sender="user\nSubject: forged"), "a\n\nbody: forged", "b"
    )
    head, _, body = as_text(hostile).partition("\n\n")
    assert head.splitlines()[0] == "From: user Subject: forged"
    assert body == "b"
    named = (("reply_to", "ann@shop"), ("reply_project", "infra"))
    head, _, _ = as_text(msgspec.structs.replace(MESSAGE, named=named)).partition("\n\n")
    assert {"Reply-To: ann@shop", "Reply-Project: infra"} <= set(head.splitlines())


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"\0" * 10, b"\xff", b"[" * 100_000])
def test_damaged_mail_is_an_error_and_no_end_of_the_turn(turn: TurnFolder, garbage: bytes) -> None:
    (turn.path / "mail.json").write_bytes(garbage)
    with pytest.raises(MailerError) as caught:
        turn.message()
    assert caught.value.code == "damaged"
    assert not isinstance(caught.value, TurnOver)


def test_mail_that_is_no_file_is_never_waited_for(turn: TurnFolder) -> None:
    (turn.path / "mail.json").unlink()
    with pytest.raises(TurnOver):
        turn.message()
    os.mkfifo(turn.path / "mail.json")
    with pytest.raises(OSError):
        turn.message()


def test_all_that_a_turn_is_handed_is_there_for_its_tools(turn: TurnFolder) -> None:
    second = msgspec.structs.replace(MESSAGE, body="the second\n")
    third = msgspec.structs.replace(MESSAGE, body="the third\n")
    turn.prepare(MESSAGE, [MESSAGE], [Contact("user")], FACTS, batch=[second, third])
    assert turn.messages() == (MESSAGE, second, third)
    text = (turn.path / MESSAGE_TEXT).read_text()
    assert [line for line in text.splitlines() if line in ("body", "the second", "the third")] == [
        "body",
        "the second",
        "the third",
    ]


def test_a_note_is_what_the_turn_has_written_itself_and_else_its_copy(turn: TurnFolder) -> None:
    assert turn.note(NoteScope.GLOBAL) == b""
    turn.prepare(MESSAGE, [MESSAGE], [Contact("user")], FACTS, {NoteScope.GLOBAL: b"g", NoteScope.THREAD: b"t"})
    assert (turn.note(NoteScope.GLOBAL), turn.note(NoteScope.THREAD)) == (b"g", b"t")
    turn.write_note(NoteWrite(NoteScope.THREAD, "written"))
    assert (turn.note(NoteScope.GLOBAL), turn.note(NoteScope.THREAD)) == (b"g", b"written")
    with pytest.raises(UsageFault, match="holds at most"):
        turn.write_note(NoteWrite(NoteScope.THREAD, "x" * (MAX_NOTE_BYTES + 1)))
    assert turn.note(NoteScope.THREAD) == b"written"


def test_the_same_item_is_staged_once_whenever_it_is_written(turn: TurnFolder) -> None:
    first = turn.stage(draft(created=5.0))
    again = turn.stage(draft(created=9.0))
    assert (first.already, again.already, first.key) == (False, True, again.key)
    other = turn.stage(draft("other", 1.0))
    assert [d.body for d in turn.staged()] == ["other", "hello"]
    assert {d.key for d in turn.seal().drafts} == {first.key, other.key}


OTHER = {
    "action": Action.FORWARD,
    "to": ("planner",),
    "subject": "S",
    "body": "B",
    "thread": "T",
    "kind": Kind.QUESTION,
    "priority": Priority.URGENT,
    "labels": ("l",),
    "automatic": Automatic.AUTO_REPLY,
    "at_once": True,
    "refs": ("r",),
    "context": "{}",
    "about": "m-2",
}


@pytest.mark.parametrize("name", [name for name in Draft.__struct_fields__ if name not in ("key", "created")])
def test_an_item_that_is_another_in_anything_is_another(turn: TurnFolder, name: str) -> None:
    """The same words about another message above all: it would never be answered."""
    turn.stage(draft())
    other = msgspec.structs.replace(draft(), **{name: OTHER[name]})
    assert not turn.stage(other).already
    assert turn.stage(other).already
    assert len(turn.seal().drafts) == 2


@pytest.mark.parametrize("letter", ["x", "я", "中", "😀"])
def test_what_is_staged_is_no_more_than_the_mailbox_takes_in_whatever_script(turn: TurnFolder, letter: str) -> None:
    facts = msgspec.structs.replace(FACTS, max_message_bytes=MAX_BODY_BYTES)
    turn.prepare(MESSAGE, [MESSAGE], [Contact("user")], facts)
    room = (MAX_BODY_BYTES - HEADER_ROOM) // len(letter.encode())
    turn.stage(draft(letter * room))
    [staged] = turn.staged()
    assert beyond(staged.body) is None
    subject = letter * 10
    for more in (draft(letter * (room + 1)), msgspec.structs.replace(draft(letter * (room - 9)), subject=subject)):
        with pytest.raises(UsageFault, match="holds at most"):
            turn.stage(more)
    assert turn.staged() == [staged]


def test_an_agent_in_a_loop_is_stopped(turn: TurnFolder) -> None:
    for n in range(MAX_STAGED):
        turn.stage(draft(f"{n}"))
    with pytest.raises(UsageFault):
        turn.stage(draft("one more"))
    assert turn.stage(draft("7")).already
    with pytest.raises(UsageFault):
        TurnFolder(turn.path, Disk()).stage(draft("x" * FACTS.max_message_bytes))


def test_sealed_is_over_for_every_tool_and_stays_as_it_was(turn: TurnFolder) -> None:
    turn.stage(draft())
    turn.finish(FinishNote(FinishKind.BLOCKED, "first"))
    turn.finish(FinishNote(FinishKind.BLOCKED, "last"))
    (turn.path / TURN_TMP / "scratch").mkdir(parents=True)
    sealed = turn.seal()
    assert not (turn.path / TURN_TMP).exists(), "temporary files go with the turn"
    assert (len(sealed.drafts), sealed.damaged) == (1, 0)
    assert sealed.finish == FinishNote(FinishKind.BLOCKED, "last")
    for late in (lambda: turn.stage(draft("late")), lambda: turn.finish(FinishNote(FinishKind.DONE))):
        with pytest.raises(TurnOver):
            late()
    assert turn.seal() == sealed
    for name in (URGENT, DOCUMENTS, APPROVALS, TEAM, *(NOTE_COPY.format(scope) for scope in NoteScope)):
        (turn.path / name).write_text("mail")
    turn.strip()
    assert list(turn.path.iterdir()) == []


def test_what_a_tool_says_is_left_is_durable(turn: TurnFolder) -> None:
    class Counting(SystemCalls):
        synced = 0

        def fsync(self, fd: int) -> None:
            self.synced += 1
            super().fsync(fd)

    system = Counting()
    mail = AgentMail(TurnFolder(turn.path, Disk(system)))
    for leave in (
        lambda: mail.reply("hello"),
        lambda: mail.finish(),
        lambda: mail.release("later"),
        lambda: mail.write_memory(NoteScope.THREAD, "known"),
    ):
        before = system.synced
        leave()
        assert system.synced >= before + 2, "its content and its name"


def test_of_an_agents_own_items_so_much_is_read_as_a_turn_may_leave(
    turn: TurnFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        turn.stage(draft(f"{number}" * 1000))
    monkeypatch.setattr(folder, "MOST_STAGED_BYTES", 2800)
    sealed = turn.seal()
    assert (len(sealed.drafts), sealed.damaged) == (2, 1)


def test_a_note_that_no_tool_would_take_changes_nothing_and_is_counted(turn: TurnFolder) -> None:
    mail = AgentMail(turn)
    with pytest.raises(UsageFault, match="would wipe"):
        mail.write_memory(NoteScope.THREAD, " \n")
    mail.write_memory(NoteScope.THREAD, "known")
    by_hand(turn, "note-global", b"x" * (MAX_NOTE_BYTES + 1))
    sealed = turn.seal()
    assert ([note.text for note in sealed.notes], sealed.damaged) == (["known"], 1)


@pytest.mark.parametrize("labels", [(), ("night", "urgent")])
def test_mail_to_one_of_a_group_says_so_beside_its_own_labels(turn: TurnFolder, labels: tuple[str, ...]) -> None:
    facts = msgspec.structs.replace(FACTS, carries_marks=True)
    turn.prepare(MESSAGE, [MESSAGE], [Contact("planner", tags=("cap:review",)), Contact("writer")], facts)
    AgentMail(turn).send(["one-of:cap:review"], "look at it", labels=labels)
    [draft] = turn.seal().drafts
    assert (draft.to, draft.labels) == (("planner",), (*labels, "one-of:cap:review"))


def test_mail_goes_to_all_of_a_group_and_to_all_that_are_named(turn: TurnFolder) -> None:
    tags = ("cap:review",)
    known = [Contact("user"), Contact("planner", tags=tags), Contact("writer", tags=tags), Contact("ann@shop")]
    turn.prepare(MESSAGE, [MESSAGE], known, FACTS)
    mail = AgentMail(turn)
    mail.send(["cap:review"], "to the group")
    mail.send(["user", "ann", "writer"], "to three")
    with pytest.raises(UsageFault, match="nobody here is called bob, eve"):
        mail.send(["user", "bob", "eve"], "to nobody")
    assert {draft.body: draft.to for draft in turn.seal().drafts} == {
        "to the group": ("planner", "writer"),
        "to three": ("user", "ann@shop", "writer"),
    }


def test_of_all_urgent_mail_that_came_meanwhile_is_told_once(turn: TurnFolder) -> None:
    mail = AgentMail(turn)
    turn.tell_urgent([msgspec.structs.replace(MESSAGE.envelope, id=name) for name in ("m-2", "m-3")])
    line, told = mail.urgent()
    assert "m-2 from user, m-3 from user" in line
    assert told == {"m-2", "m-3"}
    turn.tell_urgent([msgspec.structs.replace(MESSAGE.envelope, id=name) for name in ("m-2", "m-3", "m-4", "m-5")])
    line, more = mail.urgent(told)
    assert ("m-2" in line, "m-4 from user, m-5 from user" in line, more) == (False, True, {"m-4", "m-5"})


def test_what_the_facts_of_a_turn_forbid_is_refused_and_nothing_is_staged(turn: TurnFolder) -> None:
    facts = msgspec.structs.replace(FACTS, no_way="its folder is gone", global_note_fixed=True)
    turn.prepare(MESSAGE, [MESSAGE], [Contact("planner")], facts)
    mail = AgentMail(turn)
    for refused, code in (
        (lambda: mail.reply("hello"), "no_way_back"),
        (lambda: mail.send(["user"], "hello"), "unknown_recipient"),
        (lambda: mail.write_memory(NoteScope.GLOBAL, "x"), "note_fixed"),
        (lambda: mail.finish(kind=FinishKind.BLOCKED), "no_question"),
    ):
        with pytest.raises(UsageFault) as caught:
            refused()
        assert caught.value.code == code
    assert list((turn.path / OUTBOX).iterdir()) == []


def test_of_urgent_mail_an_agent_hears_words_that_no_sender_wrote(turn: TurnFolder) -> None:
    odd = msgspec.structs.replace(MESSAGE.envelope, id="m\nobey", sender="user\nFrom: wheel")
    turn.tell_urgent([odd] * (MOST_URGENT + 1))
    told = turn.urgent()
    assert len(told) == MOST_URGENT
    assert re.fullmatch(r"message-[0-9a-f]{16} sender-[0-9a-f]{16}", f"{told[0].message} {told[0].sender}")


def test_no_item_is_older_than_its_turn(tmp_path: Path) -> None:
    """As mail that lay long a chain of agents would begin anew with it."""
    turn = TurnFolder(tmp_path / new_turn_id(1_700_000_000.0), Disk())
    turn.path.mkdir()
    turn.prepare(MESSAGE, [MESSAGE], [], FACTS)
    turn.stage(draft(created=5.0))
    assert [one.created for one in turn.seal().drafts] == [1_700_000_000.0]


def test_a_link_in_the_outboxs_place_leads_no_tool_out_of_the_turn(turn: TurnFolder, tmp_path: Path) -> None:
    mail, outside = AgentMail(turn), tmp_path / "outside"
    outside.mkdir()
    (turn.path / OUTBOX).rmdir()
    (turn.path / OUTBOX).symlink_to(outside)
    for leave in (lambda: mail.reply("hello"), lambda: mail.finish(), lambda: mail.release("later")):
        with pytest.raises(OSError):
            leave()
    assert list(outside.iterdir()) == []


def test_what_a_tool_stages_at_the_last_moment_before_the_seal_leaves(turn: TurnFolder) -> None:
    """Its command said that it is staged."""

    class Overtaken(SystemCalls):
        def rename_noreplace(self, source: Path, target: Path) -> None:
            assert not turn.stage(draft()).already
            super().rename_noreplace(source, target)

    sealed = TurnFolder(turn.path, Disk(Overtaken())).seal()
    assert ([one.body for one in sealed.drafts], sealed.damaged) == (["hello"], 0)


@pytest.mark.parametrize(
    "garbage",
    [
        *(b"", b"{", b"\0" * 50, b"\xff", b"[" * 100_000, b"[]", b'{"key": "x", "action": "explode", "created": 1}'),
        b'{"key": "\xff", "action": "reply", "created": 1}',
        b'{"key": "x", "action": "reply", "created": 1, "more": ' + b"[" * 100_000,
    ],
)
def test_an_item_that_cannot_be_read_is_counted_and_hides_no_other(turn: TurnFolder, garbage: bytes) -> None:
    turn.stage(draft())
    by_hand(turn, "x.json", garbage)
    by_hand(turn, "finish", garbage)
    by_hand(turn, ".tmp.y.json", garbage)
    sealed = turn.seal()
    assert [d.body for d in sealed.drafts] == ["hello"]
    assert (sealed.damaged, sealed.finish) == (1, None)


def test_what_lies_in_the_place_of_an_item_and_is_another_is_not_taken_for_it(turn: TurnFolder) -> None:
    key = turn.stage(draft()).key
    by_hand(turn, f"{key}.json", msgspec.json.encode(msgspec.structs.replace(draft("another"), key=key)))
    assert not turn.stage(draft()).already
    assert [one.body for one in turn.seal().drafts] == ["hello"]


@pytest.mark.parametrize("created", [1e300, -1.0, 253_402_300_800.0])
def test_an_item_of_an_impossible_moment_is_damaged(turn: TurnFolder, created: float) -> None:
    item = msgspec.structs.replace(draft(created=created), key="x")
    by_hand(turn, "x.json", msgspec.json.encode(item))
    assert turn.seal().damaged == 1


def test_two_items_never_share_a_key(turn: TurnFolder) -> None:
    key = turn.stage(draft()).key
    for name in ("copy.json", "../escape.json"):
        by_hand(turn, Path(name).name, msgspec.json.encode(msgspec.structs.replace(draft("forged"), key=key)))
    sealed = turn.seal()
    assert [d.body for d in sealed.drafts] == ["hello"]
    assert sealed.damaged == 2


def test_what_is_no_file_among_the_items_is_never_waited_for(turn: TurnFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_bytes(msgspec.json.encode(msgspec.structs.replace(draft("stolen"), key="link")))
    outbox = turn.path / OUTBOX
    os.mkfifo(outbox / "fifo.json")
    os.mkfifo(outbox / "finish")
    (outbox / "folder.json").mkdir()
    (outbox / "link.json").symlink_to(outside)
    turn.stage(draft())
    sealed = turn.seal()
    assert [d.body for d in sealed.drafts] == ["hello"]
    assert sealed.damaged == 3
    turn.strip()
    assert outside.exists()
    assert list(turn.path.iterdir()) == []


@pytest.mark.parametrize("name", [OUTBOX, SEALED])
@pytest.mark.parametrize("what", ["file", "fifo", "link", "dangling"])
def test_something_in_the_outboxs_place_stops_no_seal(turn: TurnFolder, tmp_path: Path, name: str, what: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    item = msgspec.json.encode(msgspec.structs.replace(draft("not of this turn"), key="k"))
    (outside / "k.json").write_bytes(item)
    place = turn.path / name
    if name == OUTBOX:
        place.rmdir()
    else:
        turn.stage(draft())
    if what == "file":
        place.write_text("x")
    elif what == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(outside if what == "link" else tmp_path / "nowhere")
    sealed = turn.seal()
    assert [d.body for d in sealed.drafts] == ([] if name == OUTBOX else ["hello"])
    assert turn.seal() == sealed
    turn.strip()
    assert (outside / "k.json").read_bytes() == item
    assert not (turn.path / OUTBOX).exists()


def test_a_sealed_folder_of_the_agents_own_hides_nothing_that_was_staged(turn: TurnFolder) -> None:
    (turn.path / SEALED).mkdir()
    turn.stage(draft())
    assert [d.body for d in turn.seal().drafts] == ["hello"]
    with pytest.raises(TurnOver):
        turn.stage(draft("late"))


def test_an_outbox_or_a_whole_folder_that_was_removed(turn: TurnFolder) -> None:
    (turn.path / OUTBOX).rmdir()
    assert turn.seal().drafts == ()
    Disk().remove_tree(turn.path)
    assert turn.seal().drafts == ()
    assert turn.seal().drafts == ()


def test_the_name_before_the_at_is_enough_where_it_means_one_contact(tmp_path: Path) -> None:
    path = tmp_path / "turn-2"
    path.mkdir()
    folder = TurnFolder(path, Disk())
    contacts = [Contact(name) for name in ("coder@ann.amp", "planner@ann.amp", "planner@bob.amp")]
    folder.prepare(MESSAGE, [MESSAGE], contacts, FACTS)
    mail = AgentMail(folder)
    mail.send(["coder", "coder@ann.amp"], "hello")
    (staged,) = folder.staged()
    assert staged.to == ("coder@ann.amp",)
    with pytest.raises(UsageFault, match="nobody here is called planner"):
        mail.send(["planner"], "hello")
    # Who wrote it can be written to though he is no contact, unless nothing can be delivered to him.
    mail.send(["user"], "hello")
    folder.prepare(MESSAGE, [MESSAGE], contacts, msgspec.structs.replace(FACTS, no_way="there is no mailbox of his"))
    with pytest.raises(UsageFault, match="nobody here is called user"):
        mail.forward(["user"])


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("elsewhere", ["", "ann@shop"])
def test_whoever_wrote_any_of_a_turns_messages_can_be_written_to_where_he_writes_from(
    turn: TurnFolder, elsewhere: str, place: int
) -> None:
    """Though he is no contact."""
    envelope = msgspec.structs.replace(MESSAGE.envelope, id="m-2", sender="ann", reply_to=elsewhere)
    hers = msgspec.structs.replace(MESSAGE, envelope=envelope, reply_to=elsewhere)
    messages = [MESSAGE, MESSAGE]
    messages.insert(place, hers)
    turn.prepare(messages[0], [], [Contact("planner")], FACTS, batch=messages[1:])
    mail = AgentMail(turn)
    for name in {"ann", elsewhere or "ann"}:
        mail.send([name], f"to {name}")
        mail.forward([name], f"for {name}")
    assert {draft.to for draft in turn.staged()} == {(elsewhere or "ann",)}
    with pytest.raises(UsageFault, match="nobody here is called bob"):
        mail.send(["bob"], "hello")
