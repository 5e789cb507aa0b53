"""The real watcher on a mailbox at a broker: one answer, one watcher, and little memory."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.desk import Desk, outcomes, until
from tests.plain_broker import LosesAnswers, running_plain_broker
from tests.sizes import LONG

from agent_mailer.assemble import Workplace
from agent_mailer.clock import Clock
from agent_mailer.errors import ExitCode
from agent_mailer.events import EventName
from agent_mailer.mailbox.amp.adapter import AmpMailbox
from agent_mailer.mailbox.amp.client import Credentials
from agent_mailer.state.notices import Channel
from agent_mailer.watch.occasions import of_settlement

MEBIBYTE = 1024 * 1024


class AmpDesk(Desk):
    """`coder` works in `workdir`; its mail is at a broker, where `planner` writes to it."""

    def __init__(self, base: Path, broker: BrokerDesk, person: Person) -> None:
        super().__init__(base)
        self.broker = broker
        self.person = person
        self.coder = broker.agent(person, f"coder-{base.name[-12:].strip('-_').lower()}")
        self.planner = broker.agent(person, f"planner-{base.name[-12:].strip('-_').lower()}")
        self.configure(
            address=self.coder["address"],
            agent_id=self.coder["id"],
            broker_url=broker.url,
            api_key=person.key,
            poll_interval_idle=1,
            poll_interval_active=1,
            maildir_root="",
        )

    def mail(self, body: str = "please", **fields: Any) -> dict[str, Any]:
        sent: dict[str, Any] = self.broker.send(
            self.person, self.planner, self.coder["address"], subject="task", body=body, **fields
        )
        return sent

    def answers(self) -> list[dict[str, Any]]:
        path = f"/messages/inbox/{self.planner['address']}?agent_id={self.planner['id']}"
        found: list[dict[str, Any]] = self.broker.call("GET", path, headers=self.person.header)
        return found

    def unread(self) -> list[dict[str, Any]]:
        path = f"/messages/inbox/{self.coder['address']}?agent_id={self.coder['id']}"
        found: list[dict[str, Any]] = self.broker.call("GET", path, headers=self.person.header)
        return found


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrokerDesk, Person]]:
    with running_broker(tmp_path_factory.mktemp("broker")) as desk:
        yield desk, desk.person("someone")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrokerDesk, Person]]:
    with running_plain_broker(tmp_path_factory.mktemp("plain")) as desk:
        yield desk, desk.person("someone")


@pytest.mark.parametrize("kind", ["ours", pytest.param("plain", marks=LONG)])
def test_a_message_is_answered_once_and_marked_read(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    broker, person = request.getfixturevalue(kind)
    desk = AmpDesk(tmp_path, broker, person)
    with desk.watching():
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher")
        sent = desk.mail()
        until(lambda: desk.log(EventName.MESSAGE_DONE), "the end of the message")
    (answer,) = desk.answers()
    assert (answer["thread_id"], answer["action"], answer["parent_id"]) == (sent["thread_id"], "reply", sent["id"])
    assert answer["body"].strip() == "done"
    assert desk.unread() == []
    if kind == "ours":
        path = f"/messages/{sent['id']}/receipts"
        stages = [one["stage"] for one in broker.call("GET", path, headers=person.header)]
        assert stages[0] == "claimed"
        assert stages[-1] == "settled"
    assert person.key not in (desk.state / "log.jsonl").read_text()


def test_a_notice_is_passed_by_and_marked_read(ours: tuple[BrokerDesk, Person], tmp_path: Path) -> None:
    desk = AmpDesk(tmp_path, *ours)
    desk.mail(automatic="notice")
    assert outcomes(desk.once()) == []
    assert [line["why"] for line in desk.log(EventName.MESSAGE_SKIPPED)] == ["notice"]
    assert desk.unread() == []


def test_the_sender_of_what_is_held_does_not_hear_that_somebody_has_it(
    ours: tuple[BrokerDesk, Person], tmp_path: Path
) -> None:
    desk = AmpDesk(tmp_path, *ours)
    desk.configure(allow_from=["user"])
    sent = desk.mail()
    desk.once()
    assert [line["message_id"] for line in desk.log(EventName.MESSAGE_HELD)] == [sent["id"]]
    assert desk.broker.call("GET", f"/messages/{sent['id']}/receipts", headers=desk.person.header) == []


class Overheard:
    """ASGI middleware before our broker: what a watcher asks. `without` is an extension that it does not announce."""

    def __init__(self, without: str = "") -> None:
        self.asked: list[tuple[str, bytes]] = []
        self._without = without

    def before(self, app: ASGIApp) -> ASGIApp:
        async def passed_on(scope: Scope, receive: Receive, send: Send) -> None:
            async def heard() -> Message:
                message = await receive()
                if watcher and message.get("body"):
                    self.asked[at] = (what, self.asked[at][1] + message["body"])
                return message

            async def answered(message: Message) -> None:
                if named and "body" in message:
                    body = message["body"].replace(self._without.encode(), b"x" * len(self._without))
                    message = {**message, "body": body}
                await send(message)

            path = scope.get("path", "")
            watcher = dict(scope.get("headers", ())).get(b"user-agent") == b"agent-mailer"
            named = bool(self._without) and path == "/.well-known/agent-mailer"
            what = f"{scope.get('method')} {_KINDS.sub('', path)}"
            at = len(self.asked)
            if watcher:
                self.asked.append((what, b""))
            await app(scope, heard, answered)

        return passed_on


_KINDS = re.compile(r"(?<=/inbox)/[^/]+|(?<=/thread)/[^/]+|(?<=messages)/[^/]+(?=/(claim|receipts)$)")
OF_A_TURN = ["GET /messages/inbox", "POST /messages/claim", "GET /messages/thread", "POST /messages/send"]
OF_A_TURN += ["POST /messages/receipts"]


def _has_settled(desk: Desk, turns: int) -> bool:
    return len(desk.log(EventName.TURN_SETTLED)) == turns


def test_what_a_turn_asks_of_our_broker(tmp_path: Path) -> None:
    """Once each: the claim brings the thread, whom one can write to is known, and nobody looks after a turn of ours.
    Reports go beside it, as time allows."""
    overheard = Overheard()
    with running_broker(tmp_path, behind=overheard.before) as broker:
        desk = AmpDesk(tmp_path, broker, broker.person("someone"))
        desk.configure(guards={"turns_per_hour": 0})
        with desk.watching():
            # Where the stream was lost meanwhile, or an hour has passed, more is asked; that is seldom.
            for turns in range(1, 16):
                if turns % 2 == 0:
                    overheard.asked.clear()
                sent = desk.mail()
                until(partial(_has_settled, desk, turns), "the turn")
                asked = [what for what, _ in overheard.asked if not what.endswith("/report")]
                if asked == [*OF_A_TURN, *OF_A_TURN]:
                    break
            assert asked == [*OF_A_TURN, *OF_A_TURN]
        path = f"/messages/{sent['id']}/receipts"
        stages = [one["stage"] for one in broker.call("GET", path, headers=desk.person.header)]
        assert stages == ["claimed", "started", "settled"]


def test_a_broker_of_ours_that_is_older_is_asked_as_before(tmp_path: Path) -> None:
    overheard = Overheard(without="claim-thread")
    with running_broker(tmp_path, behind=overheard.before) as broker:
        desk = AmpDesk(tmp_path, broker, broker.person("someone"))
        sent = desk.mail()
        assert outcomes(desk.once()) == ["done"]
        asked = dict(reversed(overheard.asked))
        assert asked["POST /messages/claim"] == b"{}"
        assert [what for what, _ in overheard.asked].count("GET /messages/thread") == 2
        path = f"/messages/{sent['id']}/receipts"
        stages = [one["stage"] for one in broker.call("GET", path, headers=desk.person.header)]
        assert stages == ["claimed", "started", "settled"]


@pytest.mark.parametrize("kind", ["ours", pytest.param("plain", marks=LONG)])
def test_a_notice_by_mail_leaves_once(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Also where the power fails between its delivery and the word of that on the disk."""
    broker, person = request.getfixturevalue(kind)
    desk = AmpDesk(tmp_path, broker, person)
    boss = broker.agent(person, f"boss-{kind}")
    desk.configure(notify={"address": boss["name"]}, command_output="jsonl")
    desk.shell("""cat >/dev/null; echo '{"type":"result","outcome":"blocked","text":"red or blue?"}'""")
    desk.mail()

    def told() -> list[dict[str, Any]]:
        path = f"/messages/inbox/{boss['address']}?agent_id={boss['id']}"
        found: list[dict[str, Any]] = broker.call("GET", path, headers=person.header)
        return found

    with desk.watching():
        until(lambda: desk.log(EventName.NOTICE_SENT), "the notice")
    [notice] = told()
    assert "asks a human" in notice["body"]
    assert "red or blue" not in notice["body"]
    book = desk.place().state.notices
    [turn] = book.told.turns
    (desk.state / "guards.json").unlink()
    record = desk.place().state.turns.load(turn)
    assert record is not None
    assert record.settlement is not None
    left = of_settlement(record, record.settlement)
    assert left is not None
    desk.place().state.notices.add(msgspec.structs.replace(left, left=(Channel.MAIL,)))
    with desk.watching():
        until(lambda: len(desk.log(EventName.NOTICE_SENT)) == 2, "the notice, which is known to have left")
    assert told() == [notice]


class Impatient(Workplace):
    """Waits for no request that a predecessor may have under way: here none has."""

    def mailbox(self, handle: str | None = None) -> AmpMailbox:  # type: ignore[override]
        assert handle is None
        credentials = Credentials(self.config.broker_url, self.config.agent_id, self.config.api_key)
        return AmpMailbox(lambda: credentials, self.config.address, under_way=0.0)


class ImpatientDesk(AmpDesk):
    def place(self, clock: Clock | None = None) -> Workplace:
        return Impatient(self.workdir, clock=clock)


def test_what_may_have_left_is_looked_for_before_it_is_sent_again(tmp_path: Path) -> None:
    """A broker without idempotency keys takes the same message twice. Its answer was lost: for this watcher, which
    waits a moment, or for the next one, if it was killed then.
    """
    gateways: list[LosesAnswers] = []

    def gateway(app: ASGIApp) -> ASGIApp:
        gateways.append(LosesAnswers(app))
        return gateways[-1]

    with running_plain_broker(tmp_path, behind=gateway) as broker:
        [before] = gateways
        desk = ImpatientDesk(tmp_path / "desk-1", broker, broker.person("someone"))
        desk.mail()
        before.left, before.sends = 1, 0
        events = desk.once()
        assert EventName.ITEM_POSTPONED in [event.event for event in events], "its answer was lost"
        assert len(desk.answers()) == 1
        # The first watcher has left it to the next.
        desk.once()
        assert len(desk.answers()) == 1
        assert before.sends == 1
        assert desk.unread() == []
        # News that leave at once: the turn that goes on looks at its outbox again and again, and sends them once.
        desk.shell("cat >/dev/null; agent-mailer mail reply --now --body news >&2; sleep 0.5; echo done")
        before.sends = 0
        desk.mail()
        desk.once()
        assert [answer["body"].strip() for answer in desk.answers()].count("news") == 1
        assert before.sends == 2


def test_a_second_watcher_of_the_agent_leaves_with_75(ours: tuple[BrokerDesk, Person], tmp_path: Path) -> None:
    desk = AmpDesk(tmp_path, *ours)
    other = tmp_path / "elsewhere" / ".agent-mailer"
    other.mkdir(parents=True, mode=0o700)
    (other / "config.toml").write_bytes((desk.state / "config.toml").read_bytes())
    (other / "config.toml").chmod(0o600)
    with desk.watching():
        desk.mail()
        until(lambda: desk.log(EventName.MESSAGE_DONE), "a message's end: it holds the agent")
        held = desk.start_watch("--workdir", str(other.parent), stderr=subprocess.PIPE)
        _, said = held.communicate(timeout=60)
        assert held.returncode == ExitCode.BUSY, said
        assert b"watched already" in said


def test_a_refused_key_at_start_is_77(ours: tuple[BrokerDesk, Person], tmp_path: Path) -> None:
    desk = AmpDesk(tmp_path, *ours)
    desk.configure(api_key="amk_" + "0" * 64)
    watcher = desk.start_watch(stderr=subprocess.PIPE)
    _, said = watcher.communicate(timeout=60)
    assert watcher.returncode == ExitCode.REFUSED, said
    assert b"amk_0" not in said


def test_an_idle_watcher_is_small(ours: tuple[BrokerDesk, Person], tmp_path: Path) -> None:
    desk = AmpDesk(tmp_path, *ours)
    with desk.watching() as watcher:
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher")
        desk.mail()
        until(lambda: desk.log(EventName.MESSAGE_DONE), "the end of the message")
        pages = int(Path(f"/proc/{watcher.pid}/statm").read_text().split()[1])
        assert pages * 4096 <= 48 * MEBIBYTE


def test_what_the_team_remembers_reaches_the_turn(ours: tuple[BrokerDesk, Person], tmp_path: Path) -> None:
    broker, person = ours
    desk = AmpDesk(tmp_path, broker, person)
    team = broker.call("POST", "/admin/teams", json={"name": tmp_path.name}, headers=person.login)["id"]
    path = f"/admin/teams/{team}"
    broker.call("POST", f"{path}/agents", json={"agent_id": desk.coder["id"]}, headers=person.login)
    for title, content in (("House rules", "Be kind."), ("Log", "one")):
        memory = {"title": title, "content": content}
        broker.call("POST", f"{path}/memories", 201, json=memory, headers=person.login)
    broker.call("POST", f"{path}/memories/upsert", json={"title": "Log", "content": "two"}, headers=person.login)
    desk.configure(command=["/bin/sh", "-c", 'cat "$AGENT_MAILER_TURN_DIR"/team.md'])
    with desk.watching():
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher")
        desk.mail()
        until(lambda: desk.log(EventName.MESSAGE_DONE), "the end of the message")
        until(lambda: not list(desk.state.glob("turns/*/team.md")), "it goes with the mail")
    [answer] = desk.answers()
    assert answer["body"].strip() == "# House rules\n\nBe kind.\n\n# Log\n\none\n\n---\n\ntwo"
