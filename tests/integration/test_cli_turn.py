"""`mail` and `send` as an agent uses them during its turn: over the turn's folder alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.desk import Desk, outcomes
from tests.typed import Typed, type_in

from agent_mailer.disk import Disk
from agent_mailer.mailbox.port import Action, Contact, Envelope, Kind, Message, Priority
from agent_mailer.turn_tools.folder import Facts, FinishKind, Sealed, TurnFolder


class Turn:
    """A turn's folder, and commands run in it from a folder that knows nothing of any mailbox."""

    def __init__(self, base: Path) -> None:
        self.elsewhere = base / "elsewhere"
        self.elsewhere.mkdir()
        self.path = base / "turns" / "20251121T081500-deadbeef"
        self.folder = TurnFolder(self.path, Disk())
        envelope = Envelope(
            "2025-11-21T08-15-00.000Z_pid7_cafe0001", "p2p/coder__user", "user", 1763712900.0, "1", "x.md"
        )
        self.message = Message(envelope, "Colour", "Which one?\x1b[2J\n", reply_to="user")
        later = Message(Envelope("m0", "p2p/coder__user", "coder", 1763712800.0, "0", "m0.md"), "Colour", "Earlier.")
        contacts = (Contact("planner"), Contact("user", "the person here"))
        facts = Facts("t", "coder", 10 * 1024 * 1024, "/memory/global.md", "/memory/thread.md")
        self.folder.prepare(self.message, (later, self.message), contacts, facts)

    def run(self, *words: str, stdin: str | bytes | None = None) -> Typed:
        return type_in(self.elsewhere, *words, env={"AGENT_MAILER_TURN_DIR": str(self.path)}, stdin=stdin)

    def seal(self) -> Sealed:
        return self.folder.seal()


@pytest.fixture
def turn(tmp_path: Path) -> Turn:
    return Turn(tmp_path)


def test_reading_needs_nothing_but_the_folder(turn: Turn) -> None:
    read = turn.run("mail", "read")
    assert read.status == 0, read
    assert read.out.startswith("From: user\n")
    assert read.out.endswith("\n\nWhich one?\\x1b[2J\n")
    assert turn.run("mail", "read", turn.message.envelope.id[-8:]).out == read.out
    whole = turn.run("mail", "read", "2025-11-21T08", "--json").json["message"]
    assert (whole["subject"], whole["body"]) == ("Colour", "Which one?\x1b[2J\n")
    inbox = turn.run("mail", "inbox", "--json").json["messages"]
    assert [(m["id"], m["new"]) for m in inbox] == [(turn.message.envelope.id, True)]
    thread = turn.run("mail", "thread", "--json").json["messages"]
    assert [m["body"] for m in thread] == ["Earlier.", "Which one?\x1b[2J\n"]
    assert turn.run("mail", "contacts").out == "planner\nuser  (the person here)\n"
    other = turn.run("mail", "read", "another-message")
    assert (other.status, "this turn is for" in other.err) == (2, True), other
    assert list(turn.elsewhere.iterdir()) == []


def test_what_is_sent_is_staged_whole(turn: Turn, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("from a file ✓")
    for words, stdin in (
        (("mail", "reply", "--body", "Green.", "--kind", "answer"), None),
        (("mail", "reply", "--body-file", "-", "--subject", "Half way", "--now"), "working\n"),
        (("mail", "forward", "--to", "planner"), None),
        (
            ("mail", "send", "--to", "planner,user", "--subject", "New", "--body-file", str(note), "--thread", "t/2"),
            None,
        ),
        (("send", "--to", "user", "--body", "as well", "--priority", "urgent"), None),
    ):
        done = turn.run(*words, stdin=stdin)
        assert (done.status, done.out.startswith("staged (")) == (0, True), done
        assert ("leaves at once" if "--now" in words else "leaves when this turn ends well") in done.out
    drafts = {draft.body: draft for draft in turn.seal().drafts}
    assert set(drafts) == {"Green.", "working\n", "", "from a file ✓", "as well"}
    assert (drafts["Green."].action, drafts["Green."].kind, drafts["Green."].at_once) == (
        Action.REPLY,
        Kind.ANSWER,
        False,
    )
    assert (drafts["working\n"].at_once, drafts["working\n"].labels) == (True, ("progress",))
    assert (drafts[""].action, drafts[""].to) == (Action.FORWARD, ("planner",))
    sent = drafts["from a file ✓"]
    assert (sent.action, sent.to, sent.subject, sent.thread) == (Action.SEND, ("planner", "user"), "New", "t/2")
    assert drafts["as well"].priority is Priority.URGENT


def test_of_several_messages_the_one_that_is_named_is_read_answered_and_passed_on(turn: Turn) -> None:
    first = turn.message.envelope.id
    second = Message(Envelope("m2-second", "p2p/coder__user", "user", 1763712950.0, "2", "y.md"), "Shape", "Round?")
    facts, contacts = turn.folder.facts(), (Contact("planner"), Contact("user"))
    turn.folder.prepare(turn.message, (), contacts, facts, batch=(second,))
    assert turn.run("mail", "read", "m2").out.endswith("\n\nRound?\n")
    for named, body in ((first[-8:], "of the first"), ("m2", "of the second")):
        for words in (("reply", named), ("forward", named, "--to", "planner")):
            done = turn.run("mail", *words, "--body", body)
            assert done.status == 0, done
    staged = {(draft.action, draft.body): draft.about for draft in turn.seal().drafts}
    assert staged == {
        (action, body): about
        for action in (Action.REPLY, Action.FORWARD)
        for body, about in (("of the first", first), ("of the second", second.envelope.id))
    }


def test_the_same_item_twice_is_one(turn: Turn) -> None:
    first, second = (turn.run("mail", "reply", "--body", "Green.") for _ in range(2))
    assert (first.status, second.status) == (0, 0)
    assert "already staged" in second.out
    assert turn.run("mail", "reply", "--body", "Blue.").out.startswith("staged (")
    assert len(turn.seal().drafts) == 2


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("mail", "reply"), "no text"),
        (("mail", "reply", "--body", "  "), "empty"),
        (("mail", "reply", "--body-file", "-"), "empty"),
        (("mail", "reply", "--body", "x", "--kind", "poem"), "--kind is one of"),
        (("mail", "forward", "--body", "x"), "no recipient"),
        (("mail", "forward", "--to", "nobody"), "known are: planner, user"),
        (("mail", "send", "--to", "user", "--to", "../x", "--body", "x"), "nobody here is called ../x"),
        (("mail", "send", "--to", "planner", "--from", "user", "--body", "x"), "--from"),
        (("send", "--to", "planner", "--body", "x", "--wait", "5"), "--wait"),
        (("mail", "inbox", "--as", "user"), "--as is for people"),
        (("mail", "finish", "--blocked", ""), "question is empty"),
        (("mail", "finish", "--blocked", "Red?", "--no-reply"), "blocked"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_staged(turn: Turn, words: tuple[str, ...], word: str) -> None:
    done = turn.run(*words)
    assert (done.status, word in done.err) == (2, True), done
    sealed = turn.seal()
    assert (sealed.drafts, sealed.finish) == ((), None)


def test_finish_says_how_the_turn_ends_and_the_last_word_counts(turn: Turn) -> None:
    assert "the question goes to the sender" in turn.run("mail", "finish", "--blocked", "Red or green?").out
    done = turn.run("mail", "finish", "--done", "--no-reply")
    assert (done.status, done.out) == (0, "noted: done; nothing is sent by itself\n")
    finish = turn.seal().finish
    assert finish is not None
    assert (finish.kind, finish.reply_wanted) == (FinishKind.DONE, False)


def test_after_the_end_every_tool_says_so(turn: Turn) -> None:
    turn.seal()
    for words in (["reply", "--body", "x"], ["send", "--to", "user", "--body", "x"], ["finish", "--done"]):
        done = turn.run("mail", *words)
        assert (done.status, "this turn is over" in done.err) == (1, True), done
    turn.folder.strip()
    for words in (["read"], ["thread"], ["contacts"], ["inbox"], ["forward", "--to", "user"]):
        done = turn.run("mail", *words)
        assert (done.status, "this turn is over" in done.err) == (1, True), done
    assert turn.run("mail", "read", "--json").json["error"]["code"] == "turn_over"


def test_a_real_turn_mails_through_the_command(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.shell(
        "cat >/dev/null; set -e; cd /; agent-mailer mail read > /dev/null\n"
        "agent-mailer mail contacts | grep -q planner\n"
        "agent-mailer mail forward --to planner --body 'please check'\n"
        "echo done | agent-mailer mail reply --body-file -"
    )
    desk.send("paint it")
    assert outcomes(desk.once()) == ["done"]
    assert [message.body for message in desk.inbox()] == ["done\n"]
    assert desk.inbox("planner")[0].body.startswith("please check\n\n> From: user\n")
