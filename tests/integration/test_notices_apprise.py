"""A person is told by Apprise URLs: once each, beside the loop, and nobody sees the URLs."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.desk import Desk
from tests.integration.test_approvals import PUSH, AskingDesk
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.assemble import Workplace
from agent_mailer.checks import Level
from agent_mailer.checks.workdir import check_notify
from agent_mailer.config_tables import Notify
from agent_mailer.events import EventName
from agent_mailer.state.notices import Apprised
from agent_mailer.turn_tools import ISOLATED
from agent_mailer.watch.apprising import MOST_BYTES, Told, harmless, tell_urls

SECRET = "s3cr3t-t0ken"
ASKS = 'cat >/dev/null; echo \'{"type":"result","outcome":"blocked","text":"what now?"}\''


class Receiver(ThreadingHTTPServer):
    """What services got, by path; those in `refusing` answer 503, those in `hanging` not at all."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[str, Any]] = []
        self.refusing: set[str] = set()
        self.hanging: set[str] = set()
        self.over = threading.Event()

    def url(self, scheme: str, path: str) -> str:
        return f"{scheme}://user:{SECRET}@127.0.0.1:{self.server_port}{path}"

    def paths(self) -> list[str]:
        return sorted(path for path, _ in self.got)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fields = json.loads(body)
        path = self.path if self.path != "/" else f"/{fields['topic']}"
        if path in self.server.hanging:
            self.server.over.wait(60)
        refused = path in self.server.refusing
        if not refused:
            self.server.got.append((path, fields))
        self.send_response(503 if refused else 200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def nobody_sees(desk: Desk, *texts: str) -> None:
    for text in texts:
        assert SECRET not in text
    for path in desk.state.rglob("*"):
        if path.is_file() and path.name != "config.toml":
            assert SECRET.encode() not in path.read_bytes(), path


def test_a_question_is_told_with_its_code_and_the_urls_stand_nowhere(tmp_path: Path, receiver: Receiver) -> None:
    desk = AskingDesk(tmp_path)
    urls = [receiver.url("json", path) for path in ("/hook", "/away")]
    desk.configure(notify={"apprise": [*urls, receiver.url("ntfy", "/my-topic")]})
    receiver.refusing.add("/away")
    desk.send()
    desk.once()
    [waiting] = desk.place().state.notices.told.waiting
    assert waiting.apprise == Apprised((0, 2), 1), "who has it already, over restarts"
    receiver.refusing.clear()
    desk.once()
    assert receiver.paths() == ["/away", "/hook", "/my-topic"]
    [asked] = desk.place().state.approvals.all()
    code = f"{asked.code[:4]}-{asked.code[4:]}"
    for _, fields in receiver.got:
        assert fields["title"] == "coder asks for a yes"
        assert f"Bash: {PUSH}" in fields["message"]
        assert f"agent-mailer approve {code}" in fields["message"]
    [sent] = desk.log(EventName.NOTICE_SENT)
    assert sent["by"] == "apprise"
    assert not desk.place().state.notices.told.waiting
    shown, as_json = desk.say("config", "show"), desk.say("config", "show", "--json")
    assert as_json.json["keys"]["notify"]["value"]["apprise"] == "(set, not shown)"
    assert "apprise = (set, not shown)" in shown.out
    nobody_sees(desk, shown.out, as_json.out, desk.say("config", "trust", "--json").out)


def test_what_was_not_told_says_why(receiver: Receiver) -> None:
    """Neither a crowd of URLs that no pipe takes, nor one that nobody answered for, counts as told."""

    def told(*urls: str, seconds: float) -> list[Told]:
        found = tell_urls(urls, (0,), "t", "b", isolated=ISOLATED, env=os.environ, seconds=seconds, mark="notice-1")
        return asyncio.run(found)

    has, lacks, long = (receiver.url("json", path) for path in ("/has", "/lacks", "/" + "x" * MOST_BYTES))
    assert told(has, lacks, seconds=0.0) == [Told(1, "it was not done after 0 s")]
    assert told(has, long, seconds=60.0) == [Told(1, f"notify.apprise is longer than {MOST_BYTES} bytes")]
    assert receiver.paths() == []


@LONG
def test_who_has_it_is_not_told_again_while_another_refuses(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path)
    desk.configure(command_output="jsonl", notify={"apprise": [receiver.url("json", p) for p in ("/one", "/two")]})
    desk.shell(ASKS)
    receiver.refusing.add("/two")
    desk.send()
    desk.once()
    assert receiver.paths() == ["/one"]
    [failed] = desk.log(EventName.NOTICE_FAILED)
    assert failed["by"] == "apprise"
    assert failed["why"].startswith("URL 2 (json): ")
    assert "503" in failed["why"]
    [waiting] = desk.place().state.notices.told.waiting
    assert waiting.apprise == Apprised((0,), 1)
    nobody_sees(desk, failed["why"])
    receiver.refusing.clear()
    desk.once()
    assert receiver.paths() == ["/one", "/two"]
    assert not desk.place().state.notices.told.waiting


@LONG
def test_tries_are_counted_over_restarts_and_end(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path)
    desk.configure(command_output="jsonl", notify={"apprise": [receiver.url("json", "/one")]})
    desk.shell(ASKS)
    receiver.refusing.add("/one")
    desk.send()
    for _ in range(5):
        desk.once()
    assert len(desk.log(EventName.NOTICE_FAILED)) == 3
    assert len(desk.log(EventName.NOTICE_GIVEN_UP)) == 1
    assert not desk.place().state.notices.told.waiting


@LONG
def test_the_trial_tells_each_way_and_what_is_wrong_with_it(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path)
    urls = [receiver.url("json", "/one"), "nosuch://hook/x", receiver.url("json", "/slow")]
    receiver.hanging.add("/slow")
    desk.configure(notify={"apprise": urls, "timeout": 2})
    said = type_in(desk.workdir, "test-notify", "--json")
    assert said.status == 1
    [way] = said.json["ways"]
    assert (way["by"], way["told"]) == ("apprise", False)
    assert way["why"] == (
        "URL 2 (nosuch): apprise knows no such service, or the URL lacks something; it was not done after 2 s"
    )
    assert receiver.paths() == ["/one"]
    nobody_sees(desk, said.out, said.err)


def test_urls_are_given_unseen_and_count_only_as_a_person_trusts_them(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path)
    set_by_hand = type_in(
        desk.workdir, "config", "set", "notify.apprise", "-", stdin=receiver.url("json", "/mine") + "\n"
    )
    assert (set_by_hand.status, set_by_hand.out) == (0, "notify.apprise: - -> (set, not shown)\n")
    file = desk.state / "config.toml"
    file.write_text(file.read_text().replace("/mine", "/another"))
    place = Workplace(desk.workdir)
    assert place.config.notify.apprise == (receiver.url("json", "/mine"),)
    quoting = type_in(desk.workdir, "config", "set", "notify.apprise", f"'{SECRET}")
    assert quoting.status == 2
    nobody_sees(desk, set_by_hand.err, quoting.out, quoting.err, type_in(desk.workdir, "config", "trust").out)
    # Whoever asks for the whole table is shown them no more than who asks for the key.
    for asked in (("show",), ("get", "notify"), ("get", "notify.apprise")):
        for more in ((), ("--json",)):
            shown = type_in(desk.workdir, "config", *asked, *more)
            assert shown.status == 0, shown
            nobody_sees(desk, shown.out, shown.err)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ntfy://user:pass%20word@host/topic", "cannot reach host: user:pass word at topic"),
        ("slack://TokenA/TokenB/TokenC/#chan", "POST https://hooks.slack.com/tokena/TOKENB/TokenC chan"),
        ("ntfy://user:userpassword@host/topic", "the host refuses userpassword of user"),
        ("tgram://123456789:abcdefg_hijklmnop/lead2gold/", "bad 123456789:abcdefg_hijklmnop for lead2gold"),
    ],
)
def test_no_piece_of_a_url_is_in_a_reason(url: str, said: str) -> None:
    found = harmless(said + "\nand more", url).lower()
    assert found.endswith("and more")
    for piece in ("pass", "word", "token", "123456789", "abcdefg", "lead2gold", "topic", "user"):
        assert piece not in found


def test_an_old_notice_without_this_way_is_read(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    place = desk.place(FakeClock())
    row = {"id": "n-1", "kind": "blocked", "at": 1.0, "reason": "x", "left": ["command"], "tries": 2}
    (desk.state / "guards.json").write_text(json.dumps({"notices": {"waiting": [row]}}))
    [notice] = place.state.notices.told.waiting
    assert notice.apprise == Apprised()
    assert b"apprise" not in msgspec.json.encode(notice)


def test_doctor_says_whether_it_can_be_told(receiver: Receiver) -> None:
    def nothing() -> Path:
        raise AssertionError("there is no command")

    assert check_notify(Notify(), nothing) == []
    [found] = check_notify(Notify(apprise=(receiver.url("json", "/x"),)), nothing)
    assert (found.result, found.looked_at) == (Level.OK, "notify.apprise")
    assert SECRET not in str(found)
