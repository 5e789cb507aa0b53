"""`send` and `mail` as a person uses them, outside of any turn."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.typed import COMMAND, Typed, type_in

from agent_mailer.clock import SystemClock
from agent_mailer.disk import Disk, SystemCalls
from agent_mailer.errors import MailerError
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES
from agent_mailer.mailbox.port import Action, Draft
from agent_mailer.names import DEDUPE_KEY
from agent_mailer.people import Person
from agent_mailer.people.folder import FolderMail

WAIT = ("--wait", "60")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def at(desk: Desk, *words: str, stdin: str | bytes | None = None) -> Typed:
    """A command in a folder that only knows the mailbox root."""
    return type_in(desk.base, *words, env={"AM_ROOT": str(desk.root)}, stdin=stdin)


def new_of(desk: Desk, handle: str) -> list[str]:
    return sorted(path.stem for path in (desk.root / "agents" / handle / "inbox" / "new").glob("*.md"))


def test_send_delivers_once_and_prints_the_id(desk: Desk) -> None:
    sent = at(
        desk, "send", "--to", "coder", "--subject", "Hi", "--body", "Do it.", "--kind", "todo", "--priority", "low"
    )
    assert sent.status == 0, sent
    message_id = sent.out.strip()
    assert new_of(desk, "coder") == [message_id]
    message = desk.inbox("coder")[0]
    assert (message.subject, message.body, message.envelope.sender) == ("Hi", "Do it.\n", "user")
    assert (message.envelope.kind, message.envelope.priority) == ("todo", "low")
    many = at(
        desk, "send", "--to", "coder,planner", "--from", "planner", "--body-file", "-", "--json", stdin="piped ✓\n"
    )
    assert many.json["to"] == ["coder", "planner"]
    assert new_of(desk, "planner") == [many.json["id"]]
    assert desk.inbox("planner")[0].body == "piped ✓\n"


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("--to", "coder"), "no text"),
        (("--to", "coder", "--body", " \n"), "empty"),
        (("--to", "coder", "--body-file", "-"), "empty"),
        (("--to", "coder", "--body", "x", "--body-file", "-"), "not both"),
        (("--to", "coder", "--body-file", "/nowhere/file"), "cannot be read"),
        (("--body", "x"), "no recipient"),
        (("--to", "nobody", "--body", "x"), "known are: coder, planner, user"),
        (("--to", "coder", "--to", "nobody", "--body", "x"), "nobody is called nobody"),
        (("--to", "../coder", "--body", "x"), "no handle"),
        (("--to", "coder", "--from", "ghost", "--body", "x"), "no mailbox for 'ghost'"),
        (("--to", "coder", "--body", "x", "--kind", "poem"), "--kind is one of"),
        (("--to", "coder", "--body", "x", "--priority", "high"), "urgent, normal, low"),
        (("--to", "coder", "--body", "x", "--now"), "turn"),
        (("--to", "coder", "--body", "x", "--dedupe-key", ""), "empty"),
        (("--to", "coder", "--body", "x", "--wait", "-1"), "seconds"),
    ],
)
def test_send_refuses_and_delivers_nothing(desk: Desk, words: tuple[str, ...], word: str) -> None:
    done = at(desk, "send", *words)
    assert (done.status, word in done.err) == (2, True), done
    assert new_of(desk, "coder") == new_of(desk, "planner") == []


@pytest.mark.parametrize("words", [("coder", "-"), ("--to", "coder", "--subject", "s", "--body", "-")])
def test_what_was_piped_beside_a_stroke_does_not_vanish(desk: Desk, words: tuple[str, ...]) -> None:
    refused = at(desk, "send", *words, stdin="all of the report")
    assert (refused.status, new_of(desk, "coder")) == (2, [])
    assert refused.err.endswith("  fix: give --body-file - to send what is piped\n")


def test_what_is_too_long_is_told_to_be_shortened(desk: Desk) -> None:
    done = at(desk, "send", "--to", "coder", "--body-file", "-", stdin="x" * (MAX_MESSAGE_BYTES - 10))
    assert done.status != 0
    assert "can be sent" in done.err
    assert "shorten it" in done.err
    assert "contacts" not in done.err
    assert new_of(desk, "coder") == []


def test_errors_are_json_where_json_is_asked_for(desk: Desk) -> None:
    for words, code in (
        (("send", "--to", "nobody", "--body", "x"), "unknown_recipient"),
        (("send", "--bogus"), "usage"),
        (("mail", "read", "nope"), "unknown"),
        (("mail", "inbox", "--kind", "poem"), "bad_value"),
    ):
        done = at(desk, *words, "--json")
        assert done.status in (1, 2)
        assert set(done.json["error"]) == {"code", "message", "fix"}
        assert done.json["error"]["code"] == code


def test_no_root_at_all_names_the_flag(tmp_path: Path) -> None:
    # Above a temporary folder somebody may have mailboxes; here nobody has.
    done = type_in(Path("/proc"), "send", "--to", "coder", "--body", "x")
    assert (done.status, "--maildir-root" in done.err) == (78, True), done
    done = type_in(tmp_path, "send", "--to", "coder", "--body", "x", "--maildir-root", "nowhere")
    assert (done.status, "agent-mailer init --maildir-root" in done.err) == (78, True), done
    assert list(tmp_path.iterdir()) == []


def test_a_dedupe_key_sends_once_and_never_something_else(desk: Desk) -> None:
    same = ("send", "--to", "coder", "--body", "build 7", "--dedupe-key", "nightly-7")
    first, again = at(desk, *same), at(desk, *same)
    assert (first.status, again.status) == (0, 0)
    assert first.out == again.out
    assert "already sent" in again.err
    new = desk.root / "agents" / "coder" / "inbox" / "new"
    (new / f"{first.out.strip()}.md").rename(new.parent / "cur" / f"{first.out.strip()}.md")
    assert at(desk, *same, "--json").json["already"] is True
    assert new_of(desk, "coder") == []
    for other in (["--body", "build 8"], ["--subject", "else"], ["--to", "planner"], ["--kind", "todo"]):
        done = at(desk, *same[:3], *(["--body", "build 7"] if "--body" not in other else []), *other, *same[5:])
        assert (done.status, "dedupe key" in done.err) == (1, True), (other, done)
    assert new_of(desk, "planner") == []
    fresh = at(desk, *same[:-1], "nightly-8")
    assert fresh.out != first.out


def test_who_is_overtaken_under_a_dedupe_key_is_told_so(desk: Desk) -> None:
    def person(system: SystemCalls) -> Person:
        return Person(FolderMail(MaildirMailbox(Disk(system), desk.root, "user")), SystemClock())

    def draft(body: str) -> Draft:
        return Draft(f"{DEDUPE_KEY}k", Action.SEND, 1_790_000_000.0, to=("coder",), body=body)

    class Overtaken(SystemCalls):
        def rename_noreplace(self, source: Path, target: Path) -> None:
            person(SystemCalls()).send(draft("one"))
            super().rename_noreplace(source, target)

    with pytest.raises(MailerError, match="another message was sent under this dedupe key"):
        person(Overtaken()).send(draft("two"))
    assert len(new_of(desk, "coder")) == 1


def test_a_dedupe_key_completes_what_was_sent_to_some_only(desk: Desk) -> None:
    words = ("send", "--to", "coder,planner", "--body", "x", "--dedupe-key", "k")
    sent = at(desk, *words).out.strip()
    kept = (desk.root / "agents" / "coder" / "inbox" / "new" / f"{sent}.md").read_bytes()
    for lacks in ("planner", "coder"):
        lost = desk.root / "agents" / lacks / "inbox" / "new" / f"{sent}.md"
        lost.unlink()
        again = at(desk, *words, "--json")
        assert (again.status, again.json["already"]) == (0, False), "something was delivered"
        assert lost.read_bytes() == kept


def test_a_person_reads_answers_and_passes_on(desk: Desk) -> None:
    first = desk.send("Which colour?", sender="coder", to="user", subject="Colour")
    path = desk.root / "agents/user/inbox/new" / f"{first}.md"
    path.write_text(path.read_text().replace('"turn":', '"hops": 7, "turn":'))
    second = desk.send("news", sender="planner", to="user", subject="News")
    listed = at(desk, "mail", "inbox", "--json").json["messages"]
    assert [(m["id"], m["from"], m["subject"], m["new"]) for m in listed] == [
        (first, "coder", "Colour", True),
        (second, "planner", "News", True),
    ]
    assert [m["id"] for m in at(desk, "mail", "inbox", "--from", "coder", "--json").json["messages"]] == [first]
    screen = at(desk, "mail", "inbox").out
    assert first in screen
    assert "Colour" in screen

    read = at(desk, "mail", "read", first)
    assert read.out.startswith("From: coder\nTo: user\n")
    assert read.out.endswith("\n\nWhich colour?\n")
    assert new_of(desk, "user") == [second]
    assert (desk.root / "agents" / "user" / "receipts" / f"{first}__user__drained.json").is_file()
    assert at(desk, "mail", "inbox", "--json").json["messages"][0]["id"] == second
    assert [m["new"] for m in at(desk, "mail", "inbox", "--all", "--json").json["messages"]] == [False, True]

    reply = at(desk, "mail", "reply", first[-8:], "--body", "Green.")
    assert reply.status == 0, reply
    answer = desk.inbox("coder")[0]
    assert (answer.envelope.id, answer.subject, answer.refs) == (reply.out.strip(), "Re: Colour", (first,))
    assert answer.envelope.hops == 1, "what a person says is no further step of those who caused it"
    forwarded = at(desk, "mail", "forward", second, "--to", "coder", "--body", "fyi")
    assert forwarded.status == 0, forwarded
    assert new_of(desk, "user") == []
    assert "fyi\n\n> From: planner" in desk.inbox("coder")[1].body

    thread = at(desk, "mail", "thread", first, "--json").json["messages"]
    assert [m["body"] for m in thread] == ["Which colour?\n", "Green.\n"]
    assert at(desk, "mail", "thread", thread[0]["thread"], "--json").json["messages"] == thread
    assert at(desk, "mail", "contacts", "--json").json["contacts"] == [
        {"address": "coder", "note": ""},
        {"address": "planner", "note": ""},
    ]
    sent = at(desk, "mail", "send", "--as", "planner", "--to", "user", "--body", "x")
    assert sent.status == 0, sent
    assert desk.inbox("user")[0].envelope.sender == "planner"


def test_what_waits_and_is_no_message_is_named(desk: Desk) -> None:
    new = desk.root / "agents/user/inbox/new"
    assert at(desk, "mail", "inbox").err.count("no message") == 0
    (new / "torn.md").write_text("---json\n{")
    os.mkfifo(new / "pipe.md")
    (desk.root / "agents/user/inbox/cur/old.md").write_text("none of what waits")
    with (new / "comes.md").open("w") as written:
        written.write("---json\n{")
        written.flush()
        for words in (("mail", "inbox"), ("mail", "inbox", "--all"), ("mail", "inbox", "--json")):
            listed = at(desk, *words)
            assert listed.status == 0
            assert sorted(
                line.split(" is no message")[0] for line in listed.err.splitlines() if "no message" in line
            ) == [
                str(new / "pipe.md"),
                str(new / "torn.md"),
            ]
    assert (listed.json["messages"], listed.json["more"]) == ([], False)
    for number in range(20):
        (new / f"n{number}.md").write_text("x")
    assert "more that are no messages" in at(desk, "mail", "inbox").err


@pytest.mark.parametrize(
    ("words", "status", "word"),
    [
        (("read",), 2, "which message"),
        (("read", "nope"), 1, "no message 'nope'"),
        (("read", "20"), 2, "could be"),
        (("reply", "20", "--body", "x"), 2, "could be"),
        (("reply", "nope"), 2, "no text"),
        (("forward", "20", "--to", "coder"), 2, "could be"),
        (("thread", "20"), 2, "could be"),
        (("thread", "../../x"), 1, "no message"),
        (("inbox", "--as", "ghost"), 2, "no mailbox for 'ghost'"),
        (("inbox", "--as", "../user"), 78, "no handle"),
        (("finish",), 2, "no turn"),
    ],
)
def test_what_is_not_there_or_not_clear_is_refused(desk: Desk, words: tuple[str, ...], status: int, word: str) -> None:
    for _ in range(2):
        desk.send(sender="coder", to="user")
    done = at(desk, "mail", *words)
    assert (done.status, word in done.err) == (status, True), done
    assert len(new_of(desk, "user")) == 2


def test_an_agents_mail_is_not_taken_from_its_watcher(desk: Desk) -> None:
    message_id = desk.send("work")
    desk.once()
    message_id = desk.send("more work")
    done = at(desk, "mail", "read", message_id, "--as", "coder")
    assert (done.status, "more work" in done.out, "left unread" in done.err) == (0, True, True), done
    assert new_of(desk, "coder") == [message_id]


def test_nothing_from_outside_steers_the_terminal(desk: Desk) -> None:
    evil = "\x1b]0;owned\x07 \x1b[2J\u202ehidden\u2069 \u3000 ok 👩\u200d💻\ttab"
    message_id = desk.send(evil, sender="coder", to="user", subject=f"sub{evil}", thread=f"t{evil}x")
    shown = [at(desk, "mail", *words) for words in (["inbox"], ["read", message_id], ["thread", message_id])]
    for done in shown:
        assert done.status == 0, done
        assert not set(done.out + done.err) & set("\x1b\x07\u202e\u2069"), done
    assert "\\x1b" in shown[1].out
    assert "\u3000 ok 👩\u200d💻\ttab" in shown[1].out
    assert at(desk, "mail", "read", message_id, "--json").json["message"]["body"] == evil + "\n"


def test_wait_prints_the_answer_and_takes_it(desk: Desk) -> None:
    desk.shell("cat >/dev/null; sleep 0.3; echo 'forty-two'")
    with desk.watching():
        done = at(desk, "send", "--to", "coder", "--subject", "Q", "--body", "6 x 7?", *WAIT)
        assert done.status == 0, done
        assert done.out.startswith("From: coder\n")
        assert done.out.endswith("\n\nforty-two\n")
        assert "delivered to coder" in done.err
        assert "coder has taken it" in done.err
        assert new_of(desk, "user") == []
        scripted = at(desk, "send", "--to", "coder", "--body", "again?", *WAIT, "--json")
        assert (scripted.json["end"], scripted.json["answer"]["body"]) == ("answered", "forty-two\n")


def test_wait_tells_a_question_from_an_answer_and_from_the_end(desk: Desk) -> None:
    desk.shell(
        "cat >/dev/null; agent-mailer mail reply --now --body 'half way'; agent-mailer mail finish --blocked 'Red?'"
    )
    with desk.watching():
        asked = at(desk, "send", "--to", "coder", "--body", "paint it", *WAIT)
    assert asked.status == 3, asked
    assert "Red?" in asked.out
    assert "agent-mailer mail reply" in asked.err
    assert [message.body for message in desk.inbox()] == ["half way\n"]
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; echo broken >&2; exit 5")
    with desk.watching():
        dead = at(desk, "send", "--to", "coder", "--body", "do it", *WAIT)
    assert dead.status == 1, dead
    assert "given up" in dead.out
    late = at(desk, "send", "--to", "coder", "--body", "hello?", "--wait", "0", "--json")
    assert (late.status, late.json["end"], late.json["answer"]) == (4, "timeout", None)


def test_wait_is_not_misled_by_other_mail(desk: Desk) -> None:
    desk.send("old news in this thread", sender="coder", to="user")
    done = at(desk, "send", "--to", "coder", "--body", "new", "--wait", "1")
    assert done.status == 4, done
    assert "has not taken it" in done.err
    assert len(new_of(desk, "user")) == 1


def test_a_wait_that_started_before_the_watcher_sees_the_answer(desk: Desk) -> None:
    import subprocess

    desk.shell("cat >/dev/null; echo here")
    waiting = subprocess.Popen(
        [COMMAND, "send", "--maildir-root", desk.root, "--to", "coder", "--body", "x", "--wait", "60", "--json"],
        cwd=desk.base,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    until(lambda: new_of(desk, "coder"), "the message")
    with desk.watching():
        out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert json.loads(out)["answer"]["body"] == "here\n"
