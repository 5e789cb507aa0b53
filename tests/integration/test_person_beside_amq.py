"""What a person who comes from AMQ finds: files as `amq` writes them, large folders, its words and its shell."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.desk import Desk, until
from tests.sizes import LONG
from tests.typed import COMMAND, Typed, type_in

from agent_mailer import beneath
from agent_mailer.assemble import Workplace
from agent_mailer.checks.agent import program_of
from agent_mailer.clock import SystemClock
from agent_mailer.disk import Disk
from agent_mailer.errors import MailerError, UsageFault
from agent_mailer.mailbox.maildir.amq import PIN, pin, without_half_a_pin
from agent_mailer.mailbox.maildir.layout import Paths, make_root
from agent_mailer.mailbox.port import Action, Draft
from agent_mailer.people import Person, new_key
from agent_mailer.people.arrivals import Fate
from agent_mailer.people.folder import mail_in
from agent_mailer.people.port import Ending, Search

AMQ_ORDER = (
    "schema",
    "id",
    "from",
    "to",
    "thread",
    "subject",
    "created",
    "refs",
    "priority",
    "kind",
    "labels",
    "context",
)

MANY = 12_000


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def at(desk: Desk, *words: str, env: dict[str, str] | None = None) -> Typed:
    return type_in(desk.base, *words, env={"AM_ROOT": str(desk.root), **(env or {})})


def amq_file(message_id: str, *, body: str = "Hello.\n", sender: str = "planner", **fields: object) -> bytes:
    """A message byte for byte as `amq send` writes it."""
    stamp = message_id[:10] + "T" + message_id[11:23].replace("-", ":") + "Z"
    header = {"schema": 1, "id": message_id, "from": sender, "to": ["user"], "thread": f"p2p/{sender}__user"}
    header |= {"subject": fields.pop("subject", "Hi"), "created": stamp, **fields}
    text = json.dumps({key: header[key] for key in AMQ_ORDER if key in header}, indent=2)
    return f"---json\n{text}\n---\n{body}".encode()


def amq_id(number: int) -> str:
    return f"2026-08-{1 + number // 1440:02d}T{number // 60 % 24:02d}-{number % 60:02d}-00.000Z_pid7_{number:08x}"


def put(root: Path, message_id: str, data: bytes, handle: str = "user", place: str = "new") -> Path:
    path = root / "agents" / handle / "inbox" / place / f"{message_id}.md"
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which user has 12,000 messages, half of them read. Tests leave it as large."""
    root = tmp_path_factory.mktemp("crowd") / "mail"
    make_root(Disk(), root, ["planner", "coder"])
    for number in range(MANY):
        message_id = amq_id(number)
        data = amq_file(message_id, labels=["seldom"]) if number == 17 else amq_file(message_id)
        put(root, message_id, data, place="cur" if number % 2 else "new")
    return root


def person(root: Path, whose: str = "user") -> Person:
    place = Workplace(root.parent, {"mailbox": "maildir", "maildir_root": str(root)})
    return Person(mail_in(place, whose), SystemClock())


@contextmanager
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the message files that are opened meanwhile."""
    names: list[str] = []
    before = beneath.open_file

    def spy(path: Any, *rest: Any, **more: Any) -> int:
        if "/agents/" in str(path) and str(path).endswith(".md"):
            names.append(Path(path).name)
        return before(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(beneath, "open_file", spy)
        yield names


@LONG
def test_among_12000_the_newest_is_listed_read_twice_and_answered(crowd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, last_read = amq_id(MANY - 2), amq_id(MANY - 1)
    with opened(monkeypatch) as names:
        listed = person(crowd).inbox(Search(limit=3), read_too=False)
        assert [one.message.envelope.id for one in listed] == [amq_id(MANY - n) for n in (6, 4, 2)]
        both = person(crowd).inbox(Search(limit=2, offset=1), read_too=True)
        assert [(one.message.envelope.id, one.new) for one in both] == [(amq_id(MANY - 3), False), (newest, True)]
    assert len(names) <= 6
    with opened(monkeypatch) as names:
        assert person(crowd).read(newest).body == "Hello.\n"
        assert person(crowd).read(newest).body == "Hello.\n"
        assert person(crowd).read(last_read[-8:]).envelope.id == last_read
        answer = person(crowd).reply(newest, "Thank you.")
    assert set(names) == {f"{name}.md" for name in (newest, last_read, answer)} | {n for n in names if ".tmp-" in n}
    assert len(names) < 25
    os.rename(Paths(crowd, "user").cur / f"{newest}.md", Paths(crowd, "user").new / f"{newest}.md")
    assert person(crowd, "planner").find(answer).message.refs == (newest,)


def test_among_12000_an_answer_ends_the_wait_and_only_what_came_later_is_read(
    crowd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, coder = person(crowd), person(crowd, "coder")
    sent = user.send(Draft(new_key(), Action.SEND, SystemClock().now(), to=("coder",), subject="s", body="b"))
    answer = coder.reply(sent.id, "Done.")
    with opened(monkeypatch) as names:
        waited = user.wait_for_answer(sent, 20.0)
    assert waited.ending is Ending.ANSWERED
    assert waited.answer is not None
    assert waited.answer.envelope.id == answer
    assert {name for name in names if not name.startswith(".")} <= {f"{answer}.md", f"{sent.id}.md"}


@LONG
def test_among_12000_a_filter_finds_what_is_old(crowd: Path) -> None:
    (found,) = person(crowd).inbox(Search(labels=("seldom",), limit=1), read_too=True)
    assert found.message.envelope.id == amq_id(17)
    assert len(person(crowd).inbox(read_too=True)) >= MANY


def test_names_that_say_no_moment_have_that_of_their_file(desk: Desk) -> None:
    old, young = amq_id(1), amq_id(9000)
    put(desk.root, old, amq_file(old))
    put(desk.root, young, amq_file(young))
    between = put(desk.root, "by-hand", amq_file(amq_id(5000)).replace(amq_id(5000).encode(), b"by-hand"))
    os.utime(between, (1_786_000_000, 1_786_000_000))  # 2026-08-06
    (only,) = person(desk.root).inbox(Search(limit=1), read_too=False)
    assert only.message.envelope.id == young
    both = person(desk.root).inbox(Search(limit=2), read_too=False)
    assert [one.message.envelope.id for one in both] == ["by-hand", young]


def test_an_id_is_found_by_its_file_and_else_by_what_the_header_says(desk: Desk) -> None:
    put(desk.root, "some-file", amq_file(amq_id(3)))
    put(desk.root, "torn", b"---json\n{")
    mine = person(desk.root)
    assert mine.find("some-file").message.envelope.id == amq_id(3)
    assert mine.find(amq_id(3)).message.envelope.id == amq_id(3)
    for typed, code in (("torn", "unreadable"), ("nothing", "unknown"), ("", "unknown")):
        with pytest.raises(MailerError) as fault:
            mine.find(typed)
        assert fault.value.code == code
    put(desk.root, "some-other", amq_file(amq_id(4)))
    with pytest.raises(UsageFault, match="could be"):
        mine.find("some-")


def test_what_lies_in_both_folders_is_new_and_listed_once(desk: Desk) -> None:
    for place in ("new", "cur"):
        put(desk.root, amq_id(1), amq_file(amq_id(1)), place=place)
    (found,) = person(desk.root).inbox(read_too=True)
    assert found.new


def test_the_command_says_that_there_is_more(desk: Desk) -> None:
    for number in range(105):
        put(desk.root, amq_id(number), amq_file(amq_id(number)))
    shown = at(desk, "mail", "inbox", "--json").json
    assert ([m["id"] for m in shown["messages"]], shown["more"]) == ([amq_id(n) for n in range(5, 105)], True)
    screen = at(desk, "mail", "inbox", "--limit", "2")
    assert (amq_id(104) in screen.out, amq_id(103) in screen.out, amq_id(102) in screen.out) == (True, True, False)
    assert "--offset 2" in screen.err
    rest = at(desk, "mail", "inbox", "--unread", "--limit", "100", "--offset", "100", "--json").json
    assert ([m["id"] for m in rest["messages"]], rest["more"]) == ([amq_id(n) for n in range(5)], False)
    assert len(at(desk, "mail", "inbox", "--limit", "0", "--json").json["messages"]) == 105
    for words in (["--limit", "-1"], ["--offset", "-1"], ["--all", "--unread"]):
        assert at(desk, "mail", "inbox", *words).status == 2


def test_labels_refs_and_context_go_out_and_filter(desk: Desk) -> None:
    target = json.dumps({"orchestrator": {"name": "swarm", "step": 3}, "paths": ["a", "b"]})
    (desk.base / "context.json").write_text(target)
    words = ("mail", "send", "--to", "planner", "--body", "x", "--labels", "bug, urgent-fix", "--label", "ui")
    sent = at(desk, *words, "--refs", f"{amq_id(1)},{amq_id(2)}", "--context", "@context.json").out.strip()
    plain = at(desk, "send", "--to", "planner", "--body", "y").out.strip()
    data = (Paths(desk.root, "planner").new / f"{sent}.md").read_text()
    header = json.loads(data.split("---json\n")[1].split("\n---\n")[0])
    assert header["labels"] == ["bug", "urgent-fix", "ui"]
    assert header["refs"] == [amq_id(1), amq_id(2)]
    assert header["context"] == json.loads(target)
    assert data == amq_order(data)

    def found(*filters: str) -> list[str]:
        listed = at(desk, "mail", "inbox", "--as", "planner", "--json", *filters).json["messages"]
        return [message["id"] for message in listed]

    assert found() == [sent, plain]
    for filters in (
        ["--label", "bug"],
        ["--labels", "bug,ui"],
        ["--refs", amq_id(2)],
        ["--context", '{"orchestrator": {"step": 3}}'],
        ["--context", "{}", "--label", "ui"],
    ):
        assert found(*filters) == [sent], filters
    for filters in (["--label", "bug,other"], ["--refs", sent], ["--context", '{"paths": ["a"]}']):
        assert found(*filters) == [], filters
    shown = at(desk, "mail", "read", sent, "--as", "planner", "--json").json["message"]
    assert (shown["context"], shown["labels"]) == (json.loads(target), ["bug", "urgent-fix", "ui"])


def amq_order(data: str) -> str:
    """The same message with its header as Go writes it: keys in AMQ's order, two blanks."""
    head, body = data.split("\n---\n", 1)
    fields = json.loads(head.removeprefix("---json\n"))
    return "---json\n" + json.dumps({k: fields[k] for k in AMQ_ORDER if k in fields}, indent=2) + "\n---\n" + body


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("--context", "[1]"), "no JSON object"),
        (("--context", "{"), "no JSON object"),
        (("--context", '{"a": 1e999}'), "no JSON object"),
        (("--context", "@nowhere.json"), "cannot be read"),
        (("--refs", "../x"), "no message id"),
    ],
)
def test_what_cannot_be_said_is_refused_and_nothing_sent(desk: Desk, words: tuple[str, ...], word: str) -> None:
    done = at(desk, "send", "--to", "coder", "--body", "x", *words)
    assert (done.status, word in done.err) == (2, True), done
    assert list(Paths(desk.root, "coder").new.iterdir()) == []


def test_nobody_forges_our_own_marks(desk: Desk) -> None:
    context = '{"agent_mailer": {"automatic": "notice", "hops": 9}, "mine": 1}'
    sent = at(desk, "send", "--to", "planner", "--body", "x", "--context", context).out.strip()
    message = person(desk.root, "planner").find(sent).message
    assert (message.context, message.envelope.automatic, message.envelope.hops) == ('{"mine": 1}', "no", 0)


def test_a_dedupe_key_stands_for_the_context_too(desk: Desk) -> None:
    same = ("send", "--to", "coder", "--body", "x", "--dedupe-key", "k", "--context")
    assert at(desk, *same, '{"a": 1}').out == at(desk, *same, '{"a": 1}').out
    assert at(desk, *same, '{"a": 2}').status == 1


def amq_receipt(message_id: str, consumer: str, stage: str, detail: str = "") -> bytes:
    """Byte for byte as AMQ's consumer writes it."""
    fields = {"schema": 1, "msg_id": message_id, "thread": "p2p/coder__user", "sender": "user", "consumer": consumer}
    fields |= {"stage": stage, "emitted_at": "2026-08-22T10:11:12.123456789Z"} | ({"detail": detail} if detail else {})
    return json.dumps(fields, indent=2).encode() + b"\n"


def put_receipt(root: Path, message_id: str, consumer: str, stage: str, detail: str = "") -> None:
    path = Paths(root, consumer).receipts / f"{message_id}__{consumer}__{stage}.json"
    path.write_bytes(amq_receipt(message_id, consumer, stage, detail))


def test_drain_tells_all_and_takes_each_as_amq_would(desk: Desk) -> None:
    for number in (2, 1):
        put(desk.root, amq_id(number), amq_file(amq_id(number), body=f"number {number}\n"))
    put(desk.root, amq_id(3), b"---json\n{")
    box = Paths(desk.root, "user")
    first = at(desk, "mail", "drain", "--limit", "1", "--json")
    assert (json.loads(first.out)["id"], json.loads(first.out)["body"]) == (amq_id(1), "number 1\n")
    assert [path.stem for path in box.cur.iterdir()] == [amq_id(1)]
    rest = at(desk, "mail", "drain")
    assert ("number 2" in rest.out, "number 1" in rest.out, "no message" in rest.err) == (True, False, True)
    assert list(box.new.iterdir()) == []
    assert len(list(box.dlq_new.iterdir())) == 1
    stages = {amq_id(1): "drained", amq_id(2): "drained", amq_id(3): "dlq"}
    assert {path.name for path in box.receipts.iterdir()} == {f"{m}__user__{s}.json" for m, s in stages.items()}
    empty = at(desk, "mail", "drain")
    assert (empty.status, empty.out, "no new mail" in empty.err) == (0, "", True)


def test_what_a_drain_did_not_come_to_stays_unread(desk: Desk) -> None:
    for number in range(5):
        put(desk.root, amq_id(number), amq_file(amq_id(number)))

    def gone(item: object) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        person(desk.root).drain(gone)
    assert len(person(desk.root).inbox(read_too=False)) == 4


@LONG
def test_watch_waits_for_mail_and_leaves_it_unread(desk: Desk) -> None:
    nothing = at(desk, "mail", "watch", "--timeout", "1")
    assert (nothing.status, nothing.out) == (4, "")
    put(desk.root, amq_id(1), amq_file(amq_id(1)))
    put(desk.root, amq_id(2), amq_file(amq_id(2), sender="coder", kind="todo"))
    lines = [json.loads(line) for line in at(desk, "mail", "watch", "--json").out.splitlines()]
    assert [(line["event"], line["message"]["id"]) for line in lines] == [("existing", amq_id(n)) for n in (1, 2)]
    only = at(desk, "mail", "watch", "--from", "coder", "--kind", "todo").out
    assert (amq_id(2) in only, amq_id(1) in only) == (True, False)
    assert at(desk, "mail", "watch", "--label", "none", "--timeout", "1").status == 4
    assert len(person(desk.root).inbox(read_too=False)) == 2


def test_watch_follows_what_comes_and_tells_each_once(desk: Desk) -> None:
    put(desk.root, amq_id(1), amq_file(amq_id(1)))
    argv = [COMMAND, "mail", "watch", "--follow", "--json"]
    env = {**os.environ, "AM_ROOT": str(desk.root)}
    with subprocess.Popen(argv, cwd=desk.base, env=env, stdout=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stdout is not None
            told = [json.loads(watching.stdout.readline())]
            for number in (2, 3):
                temporary = put(desk.root, amq_id(number), amq_file(amq_id(number)), place="tmp")
                temporary.rename(Paths(desk.root, "user").new / temporary.name)
                told.append(json.loads(watching.stdout.readline()))
        finally:
            watching.terminate()
    assert [(one["event"], one["message"]["id"]) for one in told] == [
        ("existing", amq_id(1)),
        ("new_message", amq_id(2)),
        ("new_message", amq_id(3)),
    ]


def test_an_agents_mail_is_left_to_its_watcher(desk: Desk) -> None:
    desk.send()
    desk.once()
    waits = desk.send()
    for words in (["watch"], ["drain"]):
        done = at(desk, "mail", *words, "--as", "coder")
        assert (done.status, "watcher's to take" in done.err) == (75, True), done
    assert new_of(desk, "coder") == [waits]


def new_of(desk: Desk, handle: str) -> list[str]:
    return sorted(path.stem for path in Paths(desk.root, handle).new.glob("*.md"))


def test_receipts_tell_how_far_each_is_with_each(desk: Desk) -> None:
    one = at(desk, "send", "--to", "coder,planner", "--body", "x").out.strip()
    two = at(desk, "send", "--to", "coder", "--body", "y").out.strip()
    put_receipt(desk.root, one, "coder", "drained")
    put_receipt(desk.root, two, "coder", "dlq", "parse_error: torn")
    (Paths(desk.root, "planner").receipts / "other__planner__drained.json").write_text("{")
    told = at(desk, "mail", "receipts", "--json").json["receipts"]
    assert [(t["message"], t["recipient"], t["stage"], t["detail"]) for t in told] == [
        (one, "coder", "drained", ""),
        (one, "planner", None, ""),
        (two, "coder", "dlq", "parse_error: torn"),
    ]
    assert told[0]["at"] == "2026-08-22T10:11:12.123Z"
    assert [t["message"] for t in at(desk, "mail", "receipts", "--limit", "1", "--json").json["receipts"]] == [two]
    named = at(desk, "mail", "receipts", one[-8:]).out
    assert ("drained" in named, "not taken" in named, two in named) == (True, True, False)
    put(desk.root, amq_id(1), amq_file(amq_id(1)))
    at(desk, "mail", "read", amq_id(1))
    (mine,) = at(desk, "mail", "receipts", amq_id(1), "--json").json["receipts"]
    assert (mine["recipient"], mine["stage"]) == ("user", "drained")
    assert at(desk, "mail", "receipts", "nothing").status == 1
    assert at(desk, "mail", "receipts", "--as", "planner").err.strip() == "nothing was sent"


def test_a_receipt_that_is_garbled_or_oddly_named_still_counts(desk: Desk) -> None:
    odd = "an id with blanks"
    (Paths(desk.root, "user").sent / f"{odd}.md").write_bytes(
        amq_file(amq_id(1)).replace(amq_id(1).encode(), odd.encode()).replace(b'"user"\n', b'"coder"\n')
    )
    (Paths(desk.root, "coder").receipts / f"{odd}__coder__drained.json").write_text("garbled")
    (told,) = person(desk.root).told(odd, 1)
    assert (told.stage, told.at) == ("drained", None)


def test_send_waits_for_a_stage(desk: Desk) -> None:
    words = ("send", "--to", "coder,planner", "--body", "x", "--dedupe-key", "k")
    late = at(desk, *words, "--wait-for", "drained", "--wait", "0")
    assert (late.status, "mail receipts" in late.err) == (4, True)
    sent = late.out.strip()
    put_receipt(desk.root, sent, "coder", "drained")
    assert at(desk, *words, "--wait-for", "drained", "--wait", "0").status == 4
    put_receipt(desk.root, sent, "planner", "drained")
    reached = at(desk, *words, "--wait-for", "drained", "--json")
    assert (reached.status, reached.json["stage"]) == (0, "drained")
    put_receipt(desk.root, sent, "planner", "dlq")
    assert at(desk, *words, "--wait-for", "dlq", "--wait", "0").status == 4
    put_receipt(desk.root, sent, "coder", "dlq")
    assert at(desk, *words, "--wait-for", "dlq").status == 0
    assert at(desk, *words, "--wait-for", "processed").status == 2


def test_a_wait_for_what_can_never_be_ends_at_once(desk: Desk) -> None:
    sent = person(desk.root).send(Draft(new_key(), Action.SEND, 0.0, to=("coder",), body="x"))
    put_receipt(desk.root, sent.id, "coder", "dlq")
    assert person(desk.root).wait_for_fate(sent, Fate.DRAINED, 60.0) is Fate.DLQ


def test_the_agents_watcher_writes_the_receipt_that_is_waited_for(desk: Desk) -> None:
    sent = person(desk.root).send(Draft(new_key(), Action.SEND, SystemClock().now(), to=("coder",), body="x"))
    desk.once()
    assert person(desk.root).wait_for_fate(sent, Fate.DRAINED, 0.0) is Fate.DRAINED


def test_in_amqs_shell_one_is_who_the_shell_says(desk: Desk) -> None:
    put(desk.root, amq_id(1), amq_file(amq_id(1)), handle="planner")
    shell = {"AM_ME": "planner", "AM_BASE_ROOT": str(desk.root), "AM_SESSION": ""}
    # The shell may name it as it is seen from where one stands.
    for root in (str(desk.root), desk.root.name, f"./coder/../{desk.root.name}/"):
        listed = at(desk, "mail", "inbox", "--json", env={**shell, "AM_ROOT": root}).json["messages"]
        assert [message["id"] for message in listed] == [amq_id(1)], root
    sent = at(desk, "send", "--to", "coder", "--body", "x", env=shell).out.strip()
    assert person(desk.root, "coder").find(sent).message.envelope.sender == "planner"
    assert at(desk, "mail", "inbox", "--as", "user", "--json", env=shell).json["messages"] == []
    ghost = at(desk, "mail", "inbox", env={"AM_ME": "ghost"})
    assert (ghost.status, "ghost" in ghost.err) == (2, True)
    odd = at(desk, "mail", "inbox", env={"AM_ME": "../user"})
    assert (odd.status, "unset AM_ME" in odd.err) == (2, True)


def test_amqs_shell_counts_before_the_folder_one_stands_in_and_never_for_another_mailbox(desk: Desk) -> None:
    other = desk.base / "other"
    make_root(Disk(), other, ["planner"])
    put(other, amq_id(1), amq_file(amq_id(1)), handle="planner")
    env = {"AM_ROOT": str(other), "AM_ME": "planner"}
    here = type_in(desk.workdir, "mail", "inbox", "--json", env=env).json["messages"]
    assert [message["id"] for message in here] == [amq_id(1)]
    put(desk.root, amq_id(2), amq_file(amq_id(2)))
    for words in (["-C", str(desk.workdir)], ["--maildir-root", str(desk.root)]):
        listed = type_in(desk.base, "mail", "inbox", "--json", *words, env=env).json["messages"]
        assert [message["id"] for message in listed] == [amq_id(2)], words


def presence(desk: Desk, handle: str = "coder") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Paths(desk.root, handle).home / "presence.json").read_text())
    return found


def test_a_watcher_says_that_it_is_there_paused_and_gone_and_idle_it_writes_nothing(desk: Desk) -> None:
    home = Paths(desk.root, "coder").home
    with desk.watching() as process:
        until(lambda: (home / "presence.json").exists() and presence(desk)["status"] == "active", "it is there")
        data = (home / "presence.json").read_text()
        assert data == json.dumps(json.loads(data), indent=2) + "\n"
        assert list(json.loads(data)) == ["schema", "handle", "status", "last_seen"]
        assert stat.S_IMODE((home / "presence.json").stat().st_mode) == 0o600
        until(lambda: Paths(desk.root, "coder").pid_file.exists(), "it has named itself")
        (coder,) = [one for one in at(desk, "mail", "who", "--json").json["agents"] if one["address"] == "coder"]
        assert (coder["status"], coder["watched"]) == ("active", True)
        before = {path: path.stat().st_mtime_ns for path in desk.root.rglob("*")}
        assert type_in(desk.workdir, "pause").status == 0
        until(lambda: presence(desk)["status"] == "paused", "it is paused")
        assert presence(desk)["note"] == "by_hand"
        assert type_in(desk.workdir, "resume").status == 0
        until(lambda: presence(desk)["status"] == "active", "it goes on")
        assert "note" not in presence(desk)
        after = {path: path.stat().st_mtime_ns for path in desk.root.rglob("*")}
        changed = {path.name for path, at_ in after.items() if before.get(path) != at_}
        assert changed <= {"presence.json", "coder"}
        process.terminate()
        process.wait()
    assert presence(desk)["status"] == "offline"
    assert "offline" in at(desk, "mail", "who").out


def test_a_watcher_that_was_killed_is_seen_to_be_gone(desk: Desk) -> None:
    with desk.watching() as process:
        until(lambda: Paths(desk.root, "coder").pid_file.exists(), "it has named itself")
        process.kill()
        process.wait()
    (coder,) = [one for one in at(desk, "mail", "who", "--json").json["agents"] if one["address"] == "coder"]
    assert presence(desk)["status"] == "active"
    assert (coder["status"], coder["watched"]) == ("gone", False)


def test_what_others_said_of_themselves_is_shown_and_kept(desk: Desk) -> None:
    path = Paths(desk.root, "planner").home / "presence.json"
    said = {"schema": 1, "handle": "planner", "status": "busy", "last_seen": "2026-08-22T10:11:12.123456789Z"}
    path.write_text(json.dumps({**said, "note": "reviewing <42>", "notifier_status": "live"}, indent=2) + "\n")
    (Paths(desk.root, "user").home / "presence.json").write_text('{"status": 5}')
    shown = {one["address"]: one for one in at(desk, "mail", "who", "--json").json["agents"]}
    assert shown["planner"] == {
        "address": "planner",
        "status": "busy",
        "last_seen": "2026-08-22T10:11:12.123Z",
        "note": "reviewing <42>",
        "watched": False,
    }
    assert (shown["user"]["status"], shown["coder"]["status"]) == (None, None)
    assert at(desk, "send", "--to", "coder", "--body", "x", "--as", "planner").status == 0
    touched = presence(desk, "planner")
    assert list(touched) == ["schema", "handle", "status", "last_seen", "note", "notifier_status"]
    assert (touched["status"], touched["note"], touched["notifier_status"]) == ("busy", "reviewing <42>", "live")
    assert touched["last_seen"] > said["last_seen"]
    at(desk, "mail", "drain")
    assert presence(desk, "user")["status"] == "active"


def test_amq_is_told_whose_the_folders_of_ours_are(desk: Desk) -> None:
    desk.once()
    folder = desk.root / "extensions" / "agent-mailer"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == {"schema_version", "layer", "version", "owns"}
    assert (manifest["schema_version"], manifest["layer"]) == (1, folder.name)
    assert all(isinstance(glob, str) for glob in manifest["owns"])
    before = (folder / "manifest.json").stat()
    desk.once()
    assert (folder / "manifest.json").stat() == before
    (folder / "manifest.json").write_text("garbled")
    desk.once()
    assert json.loads((folder / "manifest.json").read_text()) == manifest


@pytest.mark.parametrize("session", [False, True])
def test_an_agents_own_amq_has_the_whole_context(desk: Desk, *, session: bool) -> None:
    root = desk.root / "collab" if session else desk.root
    make_root(Disk(), root, ["coder"])
    seen = desk.base / "seen"
    desk.configure(maildir_root=str(root), env={"pass": ["AM_ROOT", "AM_SESSION"], "set": {}})
    desk.shell(f"cat >/dev/null; env | grep '^AM_' | sort > {seen}; echo done")
    put(root, amq_id(1), amq_file(amq_id(1)), handle="coder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AM_ROOT", "/elsewhere")
        desk.once()

    def tree(folder: Path) -> str:
        return f"v1:linux:{folder.stat().st_dev:x}:{folder.stat().st_ino:x}"

    assert dict(line.split("=", 1) for line in seen.read_text().splitlines()) == {
        "AM_ROOT": str(root),
        "AM_ME": "coder",
        "AM_BASE_ROOT": str(desk.root),
        "AM_SESSION": "collab" if session else "",
        "AM_ROOT_ID": tree(root),
        "AM_BASE_ROOT_ID": tree(desk.root),
    }


def test_at_a_broker_half_of_a_context_does_not_pass(desk: Desk) -> None:
    whole = dict.fromkeys(PIN, "/x")
    for given, passed in (({"AM_ROOT": "/x", "A": "b"}, {"A": "b"}), (whole, whole), ({"AM_COLOUR": "1"}, None)):
        assert without_half_a_pin(given) == (given if passed is None else passed)
    desk.configure(broker_url="http://127.0.0.1:9", env={"pass": ["AM_ROOT", "COLOUR"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AM_ROOT", "/x")
        patch.setenv("COLOUR", "red")
        launch = program_of(desk.place()).launch
    assert launch is not None
    assert ("AM_ROOT" in launch.env, launch.env["COLOUR"]) == (False, "red")


AMQ = shutil.which("amq")


@pytest.mark.skipif(AMQ is None, reason="the program amq is not here")
def test_the_real_amq_at_the_other_end(desk: Desk) -> None:
    """What it sends is read, what we send it drains, and in an agent's surroundings it works."""
    assert AMQ is not None
    env = {**os.environ, **pin(desk.root, "planner")}

    def amq(*words: str) -> str:
        done = subprocess.run([AMQ, *words], cwd=desk.base, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        return done.stdout

    amq("send", "--to", "user", "--subject", "s", "--body", "from amq", "--labels", "a,b", "--context", '{"n": 1}')
    (mine,) = at(desk, "mail", "inbox", "--label", "a", "--context", '{"n": 1}', "--json").json["messages"]
    reply = at(desk, "mail", "reply", mine["id"], "--body", "from us").out.strip()
    assert "from us" in amq("drain", "--include-body")
    (told,) = at(desk, "mail", "receipts", reply, "--json").json["receipts"]
    assert (told["recipient"], told["stage"]) == ("planner", "drained")
    with desk.watching():
        until(lambda: "coder" in amq("presence", "list"), "the watcher's presence")
        assert "agent-mailer" in amq("doctor", "--json")


def test_in_its_turn_an_agent_gives_labels_refs_and_context(desk: Desk) -> None:
    asked = desk.send()
    words = f"--to planner --body x --labels bug,ui --refs {asked} --context '{{\"step\": 2}}'"
    desk.shell(f"cat >/dev/null; {COMMAND} mail send {words}; {COMMAND} mail drain; {COMMAND} mail who; echo done")
    desk.once()
    (message,) = desk.inbox("planner")
    assert (message.labels, message.refs, message.context) == (("bug", "ui"), (asked,), '{"step": 2}')
    assert new_of(desk, "planner") == [message.envelope.id]


def test_a_file_made_unreadable_between_two_looks_is_passed_over(desk: Desk) -> None:
    paths = [put(desk.root, amq_id(n), amq_file(amq_id(n))) for n in range(3)]
    mine = person(desk.root)
    assert len(mine.inbox(read_too=False)) == 3
    paths[0].unlink()
    paths[1].write_text("garbled")
    assert [one.message.envelope.id for one in mine.inbox(read_too=False)] == [amq_id(2)]
    os.mkfifo(paths[0])
    (Paths(desk.root, "user").new / "folder.md").mkdir()
    (Paths(desk.root, "user").new / "link.md").symlink_to(paths[2])
    assert [one.message.envelope.id for one in mine.inbox(read_too=False)] == [amq_id(2)]
    taken: list[object] = []
    mine.drain(taken.append)
    assert len(taken) == 5
    assert list(Paths(desk.root, "user").new.iterdir()) == []
