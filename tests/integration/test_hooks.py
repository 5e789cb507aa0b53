"""A folder's hooks: the real listener, called by HTTP; and what GitHub could not deliver."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.desk import until
from tests.hook_desk import JSON, HookDesk, signed, signed_as_github
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.clock import SystemClock
from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault, UnavailableFault
from agent_mailer.hooks.book import Book, Row
from agent_mailer.hooks.listening import MOST, QUIET, Answer, Hook, Listener
from agent_mailer.hooks.taking import Taking
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.outside.calls import read_call
from agent_mailer.outside.event import Source
from agent_mailer.outside.items import Outcome
from agent_mailer.outside.rules import Rules
from agent_mailer.outside.signature import HEADER, LARGEST, WINDOW

_FOLDERS = ("outbox/sent", "inbox/cur", "inbox/new")
REPO: Any = {"repository": {"full_name": "o/r"}, "sender": {"login": "mona"}}


@pytest.fixture(scope="module")
def hook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HookDesk]:
    """Shared: each test tells of things of its own."""
    found = HookDesk(tmp_path_factory.mktemp("hook"))
    try:
        found.start()
        yield found
    finally:
        found.close()


def test_one_delivery_is_one_mail(hook: HookDesk) -> None:
    said: Any = {"title": "5xx rate\nis high", "body": "> ignore\n# all before\x07", "url": "https://x.example"}
    first = hook.tell("same", **said)
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda _: hook.tell("same", **said), range(4)))
        new = list(pool.map(lambda _: hook.tell("other", title="two"), range(8)))
    assert (first["outcome"], first["delivery"], first["replayed"]) == ("sent", "same", False)
    assert all(one == {**first, "replayed": True} for one in again)
    assert [one["replayed"] for one in new].count(False) == 1
    [mail] = [one for one in hook.inbox() if one.subject == "5xx rate is high"]
    assert first["messageIds"] == [mail.envelope.id]
    assert (mail.envelope.sender, mail.labels) == ("hook--generic", ("hook",))
    assert mail.body.splitlines()[-2:] == ["> > ignore", "> # all before�"], "no line of theirs is one of ours"
    assert [one.subject for one in hook.inbox()].count("two") == 1


def test_what_is_open_is_told_once_until_it_is_resolved(hook: HookDesk) -> None:
    alarm: Any = {"title": "db is down", "dedupeKey": "db", "source": "monitor"}
    assert hook.tell(**alarm, status="resolved", body="early")["reason"] == "nothing_open"
    counts = [hook.tell(f"db{n}", **alarm) for n in range(3)]
    assert [(one["outcome"], one["occurrenceCount"]) for one in counts] == [("sent", 1), ("counted", 2), ("counted", 3)]
    over = hook.tell("dbend", **alarm, status="resolved")
    assert (over["outcome"], over["occurrenceCount"]) == ("resolved", 3)
    begun, ended = (one for one in hook.inbox() if "db is down" in one.subject)
    assert begun.envelope.thread == ended.envelope.thread
    [item] = [one for one in json.loads(hook.type("items", "--json").out) if one["item"] == "db"]
    assert (item["is_open"], item["occurrences"]) == (False, 3)
    assert hook.tell("anew", **alarm)["occurrenceCount"] == 1


def test_its_own_mailbox_lets_go_what_is_old_and_over(hook: HookDesk) -> None:
    hook.end()
    home = hook.desk.root / "agents/hook--generic"
    old = time.strftime("%Y-%m-%dT%H-%M-%S.000Z", time.gmtime(time.time() - 91 * 86400))
    young = time.strftime("%Y-%m-%dT%H-%M-%S.000Z", time.gmtime(time.time() - 89 * 86400))
    places = [home / folder / f"{moment}_{n:08x}.md" for n, moment in enumerate((old, young)) for folder in _FOLDERS]
    for path in places:
        path.write_text("---json\n{}\n---\n")
    elsewhere = hook.desk.root / "agents/coder/inbox/cur" / places[0].name
    elsewhere.write_text("---json\n{}\n---\n")
    receipts = [home / "receipts" / f"{age}__coder__drained.json" for age in (91, 89)]
    for path, age in zip(receipts, (91, 89), strict=True):
        path.write_text("{}\n")
        os.utime(path, (time.time() - age * 86400,) * 2)
    hook.start()
    until(lambda: not any(path.exists() for path in (*places[:2], receipts[0])), "what is old to be gone")
    # What was not read stays, and so does what is not old, or not the hook's.
    assert [path.exists() for path in (*places[2:], elsewhere, receipts[1])] == [True] * 6


def test_bad_input_is_told_and_leaves_nothing(hook: HookDesk) -> None:
    before = hook.type("deliveries", "--json").out
    body = b'{"title": "x"}'
    good = signed(hook.secret, body)
    large = b'{"title": "x", "body": "' + b"y" * LARGEST + b'"}'
    stale = signed(hook.secret, body, time.time() - WINDOW - 30)
    cases: list[tuple[int, str, bytes, dict[str, str]]] = [
        (401, "missing or wrong", b'{"title": "y"}', good),
        (401, "missing or wrong", body, JSON),
        (401, "another time", body, stale),
        (415, "application/json", body, {HEADER: good[HEADER], "Content-Type": "text/plain"}),
        (413, "larger", large, signed(hook.secret, large)),
        (400, "title", b'{"title": 5}', signed(hook.secret, b'{"title": 5}')),
        (400, "", b"[", signed(hook.secret, b"[")),
        (400, "", b"\xff", signed(hook.secret, b"\xff")),
        (400, "Idempotency-Key", body, {**good, "Idempotency-Key": "x" * 201}),
    ]
    for status, words, content, headers in cases:
        answer = hook.post(content, headers)
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
    assert httpx.post(hook.url + "x", content=body, headers=good, trust_env=False).status_code == 401
    assert httpx.get(hook.url, trust_env=False).status_code == 405
    assert httpx.get(re.sub("/hooks/.*", "/health", hook.url), trust_env=False).json() == {"status": "ok"}
    chunked = httpx.post(hook.url, content=iter([body]), headers=good, trust_env=False)
    assert (chunked.status_code, chunked.json()["detail"]) == (411, "Content-Length is missing")
    with socket.create_connection(("127.0.0.1", hook.port)) as cut:
        cut.sendall(b"POST /hooks/generic HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert hook.type("deliveries", "--json").out == before
    for status in (400, 401, 411, 413, 415):
        assert f"refused, from 127.0.0.1: {status} " in hook.said()


def test_who_calls_without_the_secret_fills_no_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    book, clock = Book(tmp_path / "deliveries.db"), SystemClock()
    hook = Hook("ci", Source.GENERIC, Rules(), lambda: "secret")
    mailbox = MaildirMailbox(Disk(), tmp_path, "hook--ci")
    taking = Taking("ci", mailbox, ("coder",), book, clock, told.append, lambda _: None)
    listener = Listener(("127.0.0.1", 0), hook, taking, clock, told.append)
    try:
        for quiet in (QUIET, QUIET, 0.0):
            monkeypatch.setattr("agent_mailer.hooks.listening.QUIET", quiet)
            listener.refuses(Answer(401, None, "wrong"), "::1")
            listener.refuses(Answer(400, None, "no\nJSON"), "::1")
    finally:
        listener.server_close()
        book.close()
    assert told == ["refused, from ::1: 401 wrong", "refused, from ::1: 400 no\\nJSON"] * 2


def test_another_secret_counts_at_once(hook: HookDesk) -> None:
    body, before = b'{"title": "rolled"}', hook.secret
    hook.secret = hook.type("secret", "generic", "--roll").out.strip()
    assert hook.post(body, signed(before, body)).status_code == 401
    assert hook.post(body, signed(hook.secret, body)).json()["outcome"] == "sent"


def test_a_listener_says_what_is_wrong_before_it_listens(hook: HookDesk, tmp_path: Path) -> None:
    workdir = hook.desk.workdir
    said = type_in(workdir, "hook", "generic", "--to", "coder", "--port", "0", env=hook.env)
    assert (said.status, "has its listener already" in said.err) == (75, True)
    assert json.loads(hook.type("list", "--json").out) == [{"name": "generic", "listens": True}]
    said = type_in(workdir, "hook", "github", "--to", "nobody", env=hook.env)
    assert (said.status, "nobody is called nobody" in said.err) == (2, True)
    said = type_in(workdir, "hook", "github", "--to", "coder", "--port", str(hook.port), env=hook.env)
    assert (said.status, "--port" in said.err) == (69, True)
    said = type_in(workdir, "hook", "github", "--to", "hook--generic", env=hook.env)
    assert (said.status, "nobody is called hook--generic" in said.err) == (2, True), "no hook has mail of another's"
    for words in (("secret", "generic"), ("generic", "--to", "coder", "--port", "0")):
        said = type_in(workdir, "hook", *words, env={**hook.env, "AGENT_MAILER_TURN_DIR": str(tmp_path)})
        assert (said.status, said.out, "for a person to decide" in said.err) == (2, "", True), words
    said = type_in(workdir, "hook", "github", "--to", "coder", "--name", "../x", env=hook.env)
    assert (said.status, "A hook's name" in said.err) == (2, True)
    first = hook.type("secret", "other")
    assert "other is a new hook" in first.err
    assert (again := hook.type("secret", "other")).out == first.out
    assert again.err == ""
    said = type_in(tmp_path, "hook", "deliveries", env=hook.env)
    assert "no mailbox root" in said.err


def test_who_reads_along_and_is_gone_has_no_delivery_fail(hook: HookDesk, tmp_path: Path) -> None:
    def gone(_: str) -> None:
        raise BrokenPipeError

    book = Book(tmp_path / "deliveries.db")
    mailbox = MaildirMailbox(Disk(), hook.desk.root, "hook--generic")
    call = read_call(Source.GENERIC, lambda _: "", b'{"title": "nobody reads along"}', "generic", Rules(), "gone")
    try:
        assert (
            Taking("generic", mailbox, ("coder",), book, SystemClock(), gone, lambda _: None).take(call).outcome
            == "sent"
        )
    finally:
        book.close()


def test_a_retry_is_of_what_was_named_alone_else_of_all_that_failed(tmp_path: Path) -> None:
    hook = HookDesk(tmp_path)
    assert "Nothing failed" in hook.type("retry").out
    [path] = (tmp_path / "state").rglob("*.db")
    book = Book(path)
    failed = [
        Row(f"digest {name}", name, 1.0, "e", "o", name, Outcome.FAILED, tries=3, due_ms=9, held="{}")
        for name in ("one", "other")
    ]
    with book.change():
        for row in failed:
            book.put(row)
    assert hook.type("retry", "--delivery", "nothing").status == 1
    assert book.due(0, 10) == []
    assert "1 will be tried again" in hook.type("retry", "--delivery", "oth").out
    assert [row.delivery for row in book.due(0, 10)] == ["other"]
    assert book.by_id("one") == failed[0], "it waits for its own moment"
    assert "2 will be tried again" in hook.type("retry").out
    assert {row.delivery for row in book.due(0, 10)} == {"one", "other"}
    book.close()


def test_what_failed_is_tried_again_however_much_of_it_there_is(tmp_path: Path) -> None:
    """After days in which its mailbox was away."""
    hook, many = HookDesk(tmp_path), 10_001
    hook.type("retry")
    [path] = (tmp_path / "state").rglob("*.db")
    book = Book(path)
    with book.change():
        for age in range(many):
            row = Row(f"digest {age}", f"{age} back", 1e6 - age, "e", "o", "i", Outcome.FAILED, due_ms=9, held="{}")
            book.put(row)
    assert hook.type("retry", "--delivery", f"{many - 1} back").status == 0
    assert [row.delivery for row in book.due(0, 10)] == [f"{many - 1} back"], "the oldest"
    assert f"{many} will be tried again" in hook.type("retry").out
    assert len(book.due(0, many)) == many
    book.close()


def test_a_book_that_is_busy_is_not_called_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_mailer.hooks.book.PATIENCE", 0.01)
    path = tmp_path / "deliveries.db"
    first = Book(path)
    with first.change(), pytest.raises(UnavailableFault, match="locked") as busy:
        Book(path)
    first.close()
    assert "mv" not in busy.value.fix
    path.write_bytes(b"no database" * 100)
    for beside in ("-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    with pytest.raises(ConfigFault, match="not a database"):
        Book(path)


@LONG
def test_callers_that_send_byte_after_byte_keep_nobody_out_and_hold_up_no_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_mailer.hooks.listening.SECONDS", 1.0)
    book = Book(tmp_path / "deliveries.db")
    found = Hook("ci", Source.GENERIC, Rules(), lambda: "secret")
    mailbox = MaildirMailbox(Disk(), tmp_path, "hook--ci")
    taking = Taking("ci", mailbox, ("coder",), book, SystemClock(), lambda _: None, lambda _: None)
    listener = Listener(("::1", 0), found, taking, SystemClock(), lambda _: None)
    port = int(listener.server_address[1])
    thread = threading.Thread(target=listener.run)
    thread.start()
    over = threading.Event()

    def drip(slow: socket.socket) -> None:
        with slow:
            slow.sendall(b"POST /hooks/ci HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
            while not over.wait(0.2):
                try:
                    slow.sendall(b"x")
                except OSError:
                    return

    try:
        with ThreadPoolExecutor(MOST + 4) as pool:
            try:
                for _ in range(MOST + 4):
                    pool.submit(drip, socket.create_connection(("::1", port)))
                # Else they would have every place, each for as long as it liked.
                health = httpx.get(f"http://[::1]:{port}/health", trust_env=False, timeout=20)
                assert health.json() == {"status": "ok"}
                for _ in range(MOST):
                    pool.submit(drip, socket.create_connection(("::1", port)))
                listener.stop()
                thread.join(20)
                assert not thread.is_alive()
            finally:
                over.set()
                listener.stop()
    finally:
        thread.join(20)
        book.close()


def test_of_what_a_program_signs_only_that_of_the_wanted_events_and_branches_becomes_mail(tmp_path: Path) -> None:
    hook = HookDesk(tmp_path)
    try:
        hook.start("--branch", "main", "--branch", "release-*", "--label", "agent")
        for branch, labels, said in (
            ("main", ["agent"], ("sent", "")),
            ("release-2", ["agent"], ("sent", "")),
            ("mine", ["agent"], ("ignored", "branch_not_wanted")),
            ("main", ["docs"], ("ignored", "label_not_wanted")),
        ):
            came = hook.tell(title=f"{branch} {labels}", branch=branch, labels=labels)
            assert (came["outcome"], came["reason"]) == said, came
        assert [one.subject for one in hook.inbox()] == ["main ['agent']", "release-2 ['agent']"]
    finally:
        hook.close()


@LONG
def test_github_is_read_filtered_and_what_fails_is_tried_again(tmp_path: Path) -> None:
    hook = HookDesk(tmp_path, "github")
    try:
        hook.start("--label", "agent", "--branch", "main")
        issue = {"number": 5, "title": "It *breaks*", "body": "Do as I say"}
        labeled = {**issue, "labels": [{"name": "agent"}]}
        assert hook.github("issues", "g1", action="opened", issue=issue, **REPO)["reason"] == "label_not_wanted"
        assert hook.github("issues", "g2", action="opened", issue=labeled, **REPO)["outcome"] == "sent"
        # Neither id nor event is signed: the same body under others is the same.
        assert hook.github("issues", "g9", action="opened", issue=labeled, **REPO)["replayed"]
        assert hook.github("star", "g3", action="created", **REPO)["reason"] == "event_unknown"
        body = json.dumps({"action": "opened"}).encode()
        assert hook.post(body, signed_as_github(hook.secret, body, "star", "g2")).status_code == 409
        assert hook.post(body, signed_as_github(hook.secret, body, "issues", "g4")).status_code == 400
        # The agent's mailbox is away for a while.
        home = hook.desk.root / "agents/coder"
        home.rename(tmp_path / "away")
        roster = hook.desk.root / "meta/config.json"
        kept = roster.read_text()
        roster.write_text(kept.replace('"coder"', '"other"'))
        run = {"name": "ci", "conclusion": "failure", "head_branch": "main"}
        failed = hook.github("workflow_run", "g5", action="completed", workflow_run=run, **REPO)
        assert failed["outcome"] == "failed"
        assert hook.end() == 0
        (tmp_path / "away").rename(home)
        roster.write_text(kept)
        assert "1 will be tried again" in hook.type("retry", "--delivery", "g5").out
        hook.start()
        until(lambda: "g5" in hook.said(), "what failed to be tried again")
        assert hook.github("workflow_run", "g5", action="completed", workflow_run=run, **REPO)["replayed"]
        again = hook.github("workflow_run", "g6", action="completed", workflow_run={**run, "head_sha": "1"}, **REPO)
        assert (again["outcome"], again["occurrenceCount"]) == ("counted", 2)
        told = [one.subject for one in hook.inbox()]
        assert told == ["[o/r] Issue #5 opened: It *breaks*", "[o/r] ci failed on main"]
        listed = json.loads(hook.type("deliveries", "--json").out)
        came = {one["delivery"]: (one["outcome"], one["reason"]) for one in listed}
        assert came["g1"] == ("ignored", "label_not_wanted")
        assert came["g5"] == ("sent", "")
        assert hook.end() == 0
    finally:
        hook.close()


def test_what_github_could_not_deliver_is_asked_for_again(tmp_path: Path) -> None:
    asked: list[str] = []
    got: list[str] = []
    pages = [
        [_attempt(10, "b", 500), _attempt(9, "c", 0), _attempt(8, "b", 200), _attempt(7, "a", 502)],
        [_attempt(6, "b", 500), _attempt(5, "a", 404), _attempt(4, "d", 201)],
    ]

    class GitHub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["Authorization"] == "Bearer t0ken"
            got.append(self.path.partition("?")[0])
            second = "cursor=2" in self.path
            if answer := re.search("/hooks/([1-5]..)/", self.path):
                self._say(int(answer[1]), [], f"/{answer[1]}")
                return
            self._say(200 if "/hooks/7/" in self.path else 404, pages[second], "/elsewhere" if second else "")

        def do_POST(self) -> None:
            asked.append(self.path)
            self._say(202, {})

        def _say(self, status: int, value: object, more: str | None = None) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if more is not None:
                self.send_header("Link", f'<{url}{more or self.path.partition("?")[0]}?cursor=2>; rel="next"')
                self.send_header("Location", f"{url}/elsewhere")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), GitHub) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        env = {"GITHUB_TOKEN": "t0ken\n", "GITHUB_API_URL": url}
        try:
            said = type_in(tmp_path, "hook", "missed", "octo/hello", "7", env=env)
            none = type_in(tmp_path, "hook", "missed", "octo/hello", "8", env=env)
            for answer, why in ((401, "not taken"), (403, "not taken"), (302, "302"), (429, "429"), (503, "503")):
                one = type_in(tmp_path, "hook", "missed", "octo/hello", str(answer), env=env)
                assert (one.status != 0, why in one.err) == (True, True), (answer, one)
        finally:
            server.shutdown()
            thread.join()
    assert said.out.splitlines() == ["asked for again: a push", "asked for again: c push"]
    assert asked == [f"/repos/octo/hello/hooks/7/deliveries/{number}/attempts" for number in (7, 9)]
    assert {path.rpartition("/hooks/")[0] for path in got} == {"/repos/octo/hello"}, "the token goes nowhere else"
    assert (none.status, "no such webhook" in none.err) == (1, True)
    without = type_in(tmp_path, "hook", "missed", "octo/hello", "7", env={"GITHUB_TOKEN": "", "GH_TOKEN": ""})
    assert (without.status, "GITHUB_TOKEN" in without.err) == (2, True)
    plain = type_in(tmp_path, "hook", "missed", "o/r", "7", env={**env, "GITHUB_API_URL": "http://x.example"})
    assert (plain.status, "https alone" in plain.err) == (2, True)
    broken = type_in(tmp_path, "hook", "missed", "o/r", "7", env={**env, "GITHUB_API_URL": "http://[::1"})
    assert (broken.status, "is no URL" in broken.err) == (2, True)
    for odd in ("t0ken\x01x", "t0kén"):
        bad = type_in(tmp_path, "hook", "missed", "o/r", "7", env={**env, "GITHUB_TOKEN": odd})
        assert (bad.status, "characters that none has" in bad.err, "t0k" in bad.err) == (2, True, False)


def _attempt(number: int, guid: str, status: int) -> dict[str, object]:
    said = "OK" if 200 <= status < 300 else "Failed"
    return {"id": number, "guid": guid, "event": "push", "action": None, "status": said, "status_code": status}
