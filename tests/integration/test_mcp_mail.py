"""What is mcp_agent_mail's own: names and tokens, the window, signals, doubtful sends, and servers that are none."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.desk import Desk
from tests.fake_mcp_mail import FakeServer, running
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.assemble import Workplace
from agent_mailer.disk import Disk
from agent_mailer.errors import BusyFault, ConfigFault, MailerError, RefusedFault
from agent_mailer.mailbox.mcp_agent_mail import inbox
from agent_mailer.mailbox.mcp_agent_mail.adapter import Account, McpAgentMailbox, Rhythm
from agent_mailer.mailbox.mcp_agent_mail.compose import compose, payload_of
from agent_mailer.mailbox.mcp_agent_mail.identity import HEARTBEAT_SECONDS, Tokens
from agent_mailer.mailbox.mcp_agent_mail.inbox import TRIES
from agent_mailer.mailbox.port import (
    Action,
    Delivered,
    Draft,
    Gone,
    Listing,
    MailboxRefused,
    MailboxUnavailable,
    Message,
    Outgoing,
    Priority,
    Refused,
    Unknown,
)
from agent_mailer.names import DEDUPE_KEY
from agent_mailer.path_patterns import overlap
from agent_mailer.people.send import send
from agent_mailer.people.server import ServerMail
from agent_mailer.testing.mailbox_scene import only, took_a_wake, waiting


class Town:
    """A server, and whoever lives there."""

    def __init__(self, url: str, fake: FakeServer, base: Path) -> None:
        self.url, self.fake, self.base = url, fake, base

    def box(
        self, name: str = "coder-1", project: str = "/srv/shop", folder: str = "names", **more: object
    ) -> McpAgentMailbox:
        account = Account(self.url, name, project)
        given = {"rhythm": Rhythm(0.2, 0.1), "environ": {}, "under_way": 0.0, **more}
        return McpAgentMailbox(account, self.base / folder, Disk(), **given)  # type: ignore[arg-type]

    def write(self, to: str, sender: str = "other-1", **more: object) -> int:
        with self.fake.held() as base:
            project = base.execute("select id from projects").fetchone()[0]
            return self.fake.write(project, sender, [to], **more)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with running(tmp_path / "base", tmp_path / "signals") as (url, fake):
        yield Town(url, fake, tmp_path)


class Later(FakeClock):
    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def draft(key: str, body: str = "work", to: str = "coder-1", priority: Priority | None = None) -> Draft:
    return Draft(key, Action.SEND, 1_790_000_000.0, to=(to,), subject="s", body=body, priority=priority)


def item(box: McpAgentMailbox, key: str, to: str = "coder-1") -> Outgoing:
    return only(box.compose(draft(key, to=to), None, "turn-1"))


def test_a_name_is_kept_with_its_token_and_given_to_nobody_else(town: Town) -> None:
    async def scenario() -> None:
        me = await town.box().register()
        assert (await town.box().register()).token == me.token
        kept = next((town.base / "names").glob("*.json"))
        assert kept.stat().st_mode & 0o077 == 0
        assert me.token in kept.read_text()
        assert me.token not in repr(me)
        with pytest.raises(MailboxRefused) as caught:
            await town.box(folder="somebody else's").register()
        assert "coder-1" in caught.value.message
        assert caught.value.fix.startswith("take another name")
        with pytest.raises(RefusedFault):
            await town.box(folder="somebody else's").open()

    asyncio.run(scenario())


def test_a_token_that_the_server_tells_once_alone_is_kept_for_good(town: Town) -> None:
    """It is registered again every hour, and by whatever watcher comes next."""
    town.fake.tells_again = False
    clock = Later()

    async def scenario() -> None:
        box = town.box(clock=clock)
        me = await box.register()
        clock.ahead = HEARTBEAT_SECONDS
        assert await box.register() == me
        assert town.fake.calls.count("register_agent") == 2
        town.write("coder-1")
        for one in (box, town.box()):
            assert len(await waiting(one)) == 1
        assert await town.box().register() == me

    asyncio.run(scenario())


def test_whose_token_cannot_be_read_now_is_not_told_to_give_up_the_name(town: Town) -> None:
    asyncio.run(town.box().register())
    kept = next((town.base / "names").glob("*.json"))
    kept.rename(kept.with_suffix(".kept"))
    kept.symlink_to(kept)
    with pytest.raises(ConfigFault) as caught:
        asyncio.run(town.box().register())
    assert caught.value.message.count(str(kept)) == 1
    assert "Errno" not in caught.value.message
    assert caught.value.fix == f"ls -ld {kept}"
    kept.unlink()
    kept.write_text("no token")
    with pytest.raises(ConfigFault) as caught:
        asyncio.run(town.box().register())
    assert caught.value.fix.endswith("and take another name")


@pytest.mark.parametrize("name", ["coder", "my agent", "code-worker", "bob@example.com", "team/bob", "-x", "a" * 200])
def test_a_name_that_could_get_no_mail_is_refused_before_it_is_registered(town: Town, name: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        asyncio.run(town.box(name).register())
    assert caught.value.fix.startswith("agent-mailer config set address ")
    assert "register_agent" not in town.fake.calls


def test_a_name_that_the_server_replaces_is_told_and_the_other_can_be_taken(town: Town) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigFault) as caught:
            await town.box("BackendHarmony").register()
        given = caught.value.fix.rpartition(" ")[2]
        assert (await town.box(given).register()).name == given
        assert [name for (name,) in town.fake.asked("select name from agents")] == [given]

    asyncio.run(scenario())


def test_two_paths_that_the_server_takes_for_one_project_are_not_mixed(town: Town) -> None:
    async def scenario() -> None:
        await town.box(project="/x/a-b").register()
        with pytest.raises(ConfigFault) as caught:
            await town.box("coder-2", project="/x/a/b").register()
        assert "/x/a-b" in caught.value.message

    asyncio.run(scenario())


def test_who_was_retired_is_called_back(town: Town) -> None:
    async def scenario() -> None:
        await town.box().register()
        with town.fake.held() as base:
            base.execute("update agents set retired = 1")
        await town.box().register()
        assert town.fake.asked("select retired from agents")[0][0] == 0

    asyncio.run(scenario())


def test_each_copy_of_a_mail_to_several_is_found_by_itself_after_a_crash() -> None:
    mail = msgspec.structs.replace(draft("k"), to=("a-1", "b-1", "c-1"))
    items = compose("coder-1", mail, None, "turn-1")
    assert not isinstance(items, Refused)
    assert len({payload_of(one).topic for one in items}) == len({one.id for one in items}) == 3
    assert items == compose("coder-1", mail, None, "turn-1")


def test_an_identity_is_one_names_in_one_project_at_one_server(tmp_path: Path) -> None:
    here, there = (Tokens(tmp_path, Disk(), f"http://{host}") for host in ("here", "there"))
    places = [here.path("/a", "Coder"), here.path("/b", "Coder"), here.path("/a", "Other"), there.path("/a", "Coder")]
    assert len({*places}) == 4
    assert here.path("/a", "coder") == places[0]


async def all_listed(box: McpAgentMailbox) -> set[str]:
    """The numbers of what is listed until there is no more."""
    seen, more = set[str](), True
    while more:
        listing = await box.pending(100)
        more = listing.more
        seen |= {envelope.locator for envelope in listing.envelopes}
    return seen


def test_mail_beyond_the_window_is_found_by_its_number_and_none_comes_twice(town: Town) -> None:
    async def scenario() -> None:
        box = town.box(window=10)
        await box.open()
        try:
            assert await waiting(box) == ()
            numbers = [town.write("coder-1", subject=str(one)) for one in range(35)]
            town.write("somebody-9", subject="not ours")
            assert await all_listed(box) == {str(number) for number in numbers}
            for envelope in (await box.pending(100)).envelopes:
                assert isinstance(await box.claim(envelope), Message)
        finally:
            await box.close()
        assert await waiting(town.box(window=10)) == ()
        town.write("coder-1", subject="late")
        assert [one.locator for one in await waiting(town.box(window=10))] == ["37"]

    asyncio.run(scenario())


def test_who_comes_after_one_that_took_what_was_newest_finds_what_it_had_not_looked_for_yet(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "PROBED", 5)
    now = datetime.now(UTC)

    async def scenario() -> None:
        box = town.box(window=10)
        await box.open()
        try:
            assert await waiting(box) == ()
            # An hour apart: how much of it was looked for is told by moments.
            numbers = [
                str(town.write("coder-1", created_ts=(now + timedelta(hours=one)).isoformat())) for one in range(25)
            ]
            listing = await box.pending(100)
            assert listing.more
            *taken, newest = sorted(listing.envelopes, key=lambda one: int(one.locator))
            for envelope in taken:
                assert isinstance(await box.claim(envelope), Message)
        finally:
            await box.close()
        left = {*numbers} - {one.locator for one in taken}
        assert newest.locator in left
        assert await all_listed(town.box(window=10)) == left

    asyncio.run(scenario())


def test_a_number_that_the_server_fails_at_holds_up_no_other_and_comes_when_it_is_asked_for_again(town: Town) -> None:
    async def scenario() -> None:
        box = town.box(window=10, rhythm=Rhythm(3600.0, 3600.0))
        await box.open()
        try:
            assert await waiting(box) == ()
            numbers = [town.write("coder-1", subject=str(one)) for one in range(35)]
            bad = numbers[12]
            others = [number for number in numbers if number != bad]
            town.fake.fault = lambda name: (500, b"") if name == f"resource://message/{bad}" else None
            await box.pending(100)
            for _ in range(TRIES - 2):
                listing = await box.pending(100)
                assert {one.locator for one in listing.envelopes} == {str(number) for number in others}
                assert (listing.unreadable, listing.more) == ((), True)
            assert not await took_a_wake(box)
            (odd,) = (await box.pending(100)).unreadable
            await box.reject(odd)
            for envelope in (await box.pending(100)).envelopes:
                await box.claim(envelope)
            assert await box.pending(100) == Listing(())
            town.fake.fault = lambda _: None
            assert await box.ask_again(odd.locator) is None
            assert [one.locator for one in await waiting(box)] == [str(bad)]
        finally:
            await box.close()

    asyncio.run(scenario())


def test_what_becomes_visible_after_a_later_one_is_not_missed(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.open()
        try:
            town.write("coder-1", subject="first", created_ts="2026-01-02T00:01:00.000000+00:00")
            (first,) = await waiting(box)
            await box.claim(first)
            town.write("coder-1", subject="late", created_ts="2026-01-02T00:00:30.000000+00:00")
            assert len(await waiting(box)) == 1
        finally:
            await box.close()
        assert len(await waiting(town.box())) == 1

    asyncio.run(scenario())


def test_a_contact_request_is_no_task_and_an_ack_is_given_where_it_is_asked_for(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.register()
        town.write("coder-1", subject="Contact request from other-1", ack_required=True)
        number = town.write("coder-1", subject="do it", ack_required=True, thread_id="T-1")
        (envelope,) = await waiting(box)
        await box.claim(envelope)
        await box.done(envelope)
        await box.done(envelope)
        found = town.fake.asked("select message from recipients where ack_ts is not null")
        assert [row[0] for row in found] == [number]

    asyncio.run(scenario())


def test_a_listing_that_is_cut_says_that_there_is_more(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.register()
        for _ in range(3):
            town.write("coder-1", subject="do it")
        said = [(len(found.envelopes), found.more) for found in [await box.pending(limit) for limit in (2, 3, 4)]]
        assert said == [(2, True), (3, False), (3, False)]

    asyncio.run(scenario())


def test_all_that_one_has_is_what_is_a_task_taken_or_not(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.register()
        for subject in ("first", "Contact request from other-1", "second"):
            town.write("coder-1", subject=subject, ack_required=True)
        envelope = (await waiting(box))[0]
        await box.claim(envelope)
        await box.done(envelope)
        assert [(subject, new) for _, subject, new in await box.everything()] == [("first", False), ("second", True)]

    asyncio.run(scenario())


def test_a_message_that_vanishes_between_list_and_read_is_gone(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.register()
        number = town.write("coder-1", subject="soon gone")
        (envelope,) = await waiting(box)
        with town.fake.held() as base:
            base.execute("delete from messages where id = ?", (number,))
        assert isinstance(await box.claim(envelope), Gone)
        assert await waiting(box) == ()
        await box.done(envelope)

    asyncio.run(scenario())


def test_a_server_that_began_anew_has_other_messages_under_the_same_numbers(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.register()
        town.write("coder-1", subject="old")
        (old,) = await waiting(box)
        await box.claim(old)
        with town.fake.held() as base:
            base.execute("delete from messages")
            base.execute("delete from recipients")
            base.execute("delete from sqlite_sequence where name = 'messages'")
        town.write("coder-1", subject="new")
        (new,) = await waiting(town.box())
        assert (new.locator, new.id != old.id) == (old.locator, True)
        assert isinstance(await box.claim(old, again=True), Gone), "it is not the one that was listed"
        assert isinstance(await box.read(old), Gone)

    asyncio.run(scenario())


def test_a_signal_wakes_at_once_and_one_for_another_does_not(town: Town) -> None:
    async def scenario() -> None:
        await town.box("other-1").register()
        await town.box().register()
        town.write("coder-1")  # the folder is there now
        box = town.box(rhythm=Rhythm(600, 600), environ={"NOTIFICATIONS_SIGNALS_DIR": str(town.base / "signals")})
        await box.open()
        try:
            assert box.capabilities.pushes
            await asyncio.wait_for(box.wait(), 20)
            await box.pending(10)
            while await took_a_wake(box):
                await box.pending(10)
            wait = asyncio.create_task(box.wait())
            await asyncio.sleep(0)
            town.write("other-1")
            await asyncio.sleep(0.05)
            assert not wait.done()
            town.write("coder-1")
            await asyncio.wait_for(wait, 20)
            assert len(await waiting(box)) == 2
        finally:
            await box.close()

    asyncio.run(scenario())


def test_without_the_folder_of_signals_it_is_looked_at_in_its_rhythm(town: Town) -> None:
    async def scenario() -> None:
        await town.box().register()
        town.write("coder-1")
        box = town.box(environ={"NOTIFICATIONS_SIGNALS_DIR": str(town.base / "signals")})
        await box.open()
        try:
            await box.pending(10)
            shutil.rmtree(town.base / "signals")
            town.fake.signals = None
            town.write("coder-1", subject="new")
            await asyncio.wait_for(box.wait(), 20)
            assert len(await waiting(box)) == 2
        finally:
            await box.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("apart", [-7200.0, 7200.0])
def test_clocks_that_are_apart_give_nobody_what_another_has(town: Town, apart: float) -> None:
    clock = FakeClock()
    clock.moment = time.time() + apart

    async def scenario() -> None:
        one, other = (town.box(name, clock=clock).reservations(overlap) for name in ("coder-1", "planner-1"))
        assert await one.take("t1", ["src/app/*.py"], 600.0) == []
        (way,) = await other.take("t2", ["src/**"], 600.0)
        assert (way.owner.address, way.until > clock.now()) == ("coder-1", True)
        assert await one.renew("t1", 600.0)
        assert await one.release("t1") == 1
        assert await other.take("t2", ["src/**"], 600.0) == []

    asyncio.run(scenario())


def test_a_send_whose_answer_is_lost_is_in_doubt_and_found_again(town: Town) -> None:
    async def scenario() -> None:
        await town.box().register()
        sender = town.box("other-1")
        await sender.register()
        one = item(sender, "one")
        town.fake.after = lambda name: (502, b"<html>bad gateway</html>") if name == "send_message" else None
        assert isinstance(await sender.deliver(one), Unknown)
        town.fake.after = lambda _: None
        assert await town.box("other-1").look(one)
        assert not await sender.look(item(sender, "two"))
        assert len(await waiting(town.box())) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [408, 429, 503])
def test_a_server_that_cannot_take_it_now_has_not_refused_it_and_has_its_mail_still(town: Town, status: int) -> None:
    async def scenario() -> None:
        box, sender = town.box(), town.box("other-1")
        await box.register()
        one = item(sender, "k")
        assert isinstance(await sender.deliver(one), Delivered)
        (envelope,) = await waiting(box)
        two = item(sender, "l")
        town.fake.fault = lambda name: (status, b"{}") if name.startswith(("send", "resource://message")) else None
        assert isinstance(await sender.deliver(two), Unknown)
        with pytest.raises(MailboxUnavailable):
            await box.claim(envelope)
        town.fake.fault = lambda _: None
        assert isinstance(await sender.deliver(two), Delivered)
        assert isinstance(await box.claim(envelope), Message)

    asyncio.run(scenario())


def test_whom_nobody_can_write_to_is_refused(town: Town) -> None:
    async def scenario() -> None:
        await town.box().register()
        sender = town.box("other-1")
        assert isinstance(await sender.deliver(item(sender, "a", to="nobody-1")), Refused)
        with town.fake.held() as base:
            base.execute("update agents set policy = 'block_all' where name = 'coder-1'")
        assert isinstance(await sender.deliver(item(sender, "b")), Refused)
        assert isinstance(sender.compose(draft("c", to="two words"), None, "t"), Refused)
        assert isinstance(
            sender.compose(Draft("d", Action.SEND, 0.0, to=("x-1",), body="b", thread="two words"), None, "t"), Refused
        )

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>login</html>"),
        (200, b'{"jsonrpc":"2.0","id":1'),
        (200, b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"hi"}],"isError":false}}'),
        (200, b"[" * 100_000),
        (500, b"Internal Server Error"),
        (404, b"Not Found"),
        (200, b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}'),
    ],
)
def test_what_is_no_such_server_is_told_and_nothing_is_lost(town: Town, answer: tuple[int, bytes]) -> None:
    async def scenario() -> None:
        box = town.box()
        await box.register()
        town.write("coder-1")
        town.fake.fault = lambda name: answer if name == "fetch_inbox" else None
        with pytest.raises(Exception) as caught:
            await box.pending(10)
        assert isinstance(caught.value, MailboxUnavailable) or answer[1].startswith(b'{"jsonrpc":"2.0","id":1,"error"')
        town.fake.fault = lambda _: None
        assert len(await waiting(box)) == 1

    asyncio.run(scenario())


def test_another_servers_tools_get_only_what_they_take(town: Town) -> None:
    """A server of another version without `topic`, and with `mark_read`: neither breaks it, nor is mail marked read."""
    asked: list[dict[str, object]] = []
    answer = town.fake.answer

    def heard(order: dict[str, object]) -> tuple[int, bytes]:
        params = order.get("params")
        if order["method"] == "tools/list":
            tools = [
                {"name": name, "inputSchema": {"properties": {word: {} for word in words}}}
                for name, words in {
                    "ensure_project": ["human_key"],
                    "register_agent": ["project_key", "program", "model", "name", "registration_token"],
                    "fetch_inbox": ["project_key", "agent_name", "limit", "since_ts", "mark_read"],
                }.items()
            ]
            return 200, json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}).encode()
        if isinstance(params, dict) and params.get("name") == "fetch_inbox":
            asked.append(params["arguments"])
            return 200, b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"[]"}]}}'
        return answer(order)

    town.fake.answer = heard  # type: ignore[method-assign]
    assert asyncio.run(town.box().pending(10)).envelopes == ()
    assert asked[0]["mark_read"] is False
    assert "registration_token" not in asked[0]


def test_no_token_is_in_what_is_told(town: Town) -> None:
    async def scenario() -> None:
        box = town.box()
        me = await box.register()
        with town.fake.held() as base:
            base.execute("update agents set token = 'another'")
        for call in (box.thread("x"), box.pending(1), box.deliver(item(box, "k"))):
            with pytest.raises(MailboxRefused) as caught:
                await call
            assert me.token not in caught.value.message

    asyncio.run(scenario())


def test_one_watcher_has_a_name(town: Town) -> None:
    async def scenario() -> None:
        first, second = town.box(), town.box()
        await first.open()
        try:
            with pytest.raises(BusyFault):
                await second.open()
        finally:
            await first.close()
        await second.open()
        await second.close()

    asyncio.run(scenario())


@pytest.fixture
def work(town: Town, tmp_path: Path) -> Path:
    """The workdir of coder-1, as a person sets it up."""
    folder = tmp_path / "work"
    folder.mkdir()
    init = ("--runtime", "command", "--command", "cat", "--permission-mode", "plan", "--sandbox", "off")
    made = type_in(
        folder, "init", "--mailbox", "mcp-agent-mail", "--broker-url", town.url, "--address", "coder-1", *init
    )
    assert made.status == 0, made.err
    assert "registered coder-1" in made.out
    return folder


def test_a_persons_key_sends_once_also_where_the_answer_was_lost(town: Town, tmp_path: Path) -> None:
    place = Workplace(tmp_path, {"mailbox": "mcp_agent_mail", "broker_url": town.url, "address": "coder-1"})

    async def scenario() -> None:
        await town.box().register()
        mail = ServerMail(place, "the-user", town.box("the-user"))

        def words(body: str) -> Draft:
            return draft(f"{DEDUPE_KEY}k", body)

        town.fake.after = lambda name: (500, b"") if name == "send_message" else None
        first = await send(mail, words("one"))
        town.fake.after = lambda _: None
        again = await send(mail, words("one"))
        assert (first.already, again.already, again.id) == (False, True, first.id)
        with pytest.raises(MailerError, match="another message was sent under this dedupe key"):
            await send(mail, words("two"))

    asyncio.run(scenario())
    assert len(town.fake.asked("select id from messages")) == 1


@LONG  # each send under a key waits for what may still be on its way
def test_a_person_sends_once_under_a_key(work: Path) -> None:
    words = ("mail", "send", "--to", "coder-1", "--subject", "Hi", "--body", "do", "--dedupe-key", "k")
    sent = type_in(work, *words, "--json")
    assert sent.status == 0, sent.err
    again = type_in(work, *words, "--json")
    assert (again.json["already"], again.json["id"]) == (True, sent.json["id"])
    other = type_in(work, *words[:-3], "another text", "--dedupe-key", "k")
    assert other.status == 1
    assert "dedupe" in other.err
    inbox = type_in(work, "mail", "inbox", "--as", "coder-1", "--json")
    assert [one["subject"] for one in inbox.json["messages"]] == ["Hi"]


def test_a_person_sends_reads_and_is_answered(town: Town, work: Path) -> None:
    folder = work
    sent = type_in(folder, "mail", "send", "--to", "coder-1", "--subject", "Hi", "--body", "do", "--json")
    assert sent.status == 0, sent.err
    assert sent.json["next"][0]["command"].startswith("agent-mailer mail thread ")
    inbox = type_in(folder, "mail", "inbox", "--as", "coder-1", "--json")
    assert [one["subject"] for one in inbox.json["messages"]] == ["Hi"]
    town.write("the-user", subject="one", body_md="first")
    town.write("the-user", subject="two", body_md="second")
    read = type_in(folder, "mail", "read", "--unread", "--json")
    assert [one["body"] for one in read.json["messages"]] == ["first", "second"]
    assert type_in(folder, "mail", "read", "--unread", "--json").json["messages"] == []
    listed = type_in(folder, "mail", "inbox", "--all", "--json")
    assert [(one["subject"], one["new"]) for one in listed.json["messages"]] == [("one", False), ("two", False)]
    stranger = type_in(folder, "mail", "send", "--to", "nobody-7", "--subject", "s", "--body", "b")
    assert stranger.status == 2
    assert "coder-1" in stranger.err
    named = type_in(folder, "mail", "register", "--as", "helper-2b", "--json")
    assert (named.json["name"], named.json["new"]) == ("helper-2b", True)
    checked = type_in(folder, "verify", "--json")
    assert {one["name"]: one["result"] for one in checked.json["checks"]}["server"] == "ok"
    status = type_in(folder, "status", "--json")
    assert (status.json["mailbox"]["kind"], status.json["mailbox"]["waiting"]) == ("mcp_agent_mail", 1)
    # What has left is told as sent, whatever fails after it.
    number = town.write("the-user", sender="coder-1", subject="three", body_md="third")
    after = ("mark_message_read", "resource://thread/")
    town.fake.fault = lambda name: (500, b"") if name.startswith(after) else None
    answered = type_in(folder, "mail", "reply", f"{number}-", "--body", "yes")
    assert (answered.status, "stays unread" in answered.err) == (0, True), answered.err
    assert len(town.fake.asked("select id from messages where subject = 'Re: three'")) == 1
    town.write("the-user", subject="four", body_md="fourth")
    drained = type_in(folder, "mail", "drain")
    assert (drained.status, "fourth" in drained.out) == (69, True), drained


def test_the_seeds_words_in_the_configuration_are_read(town: Town, tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk")
    desk.settings.pop("maildir_root")
    desk.configure(address="coder-1", capabilities={"mail": {"adapter": "mcp-agent-mail", "endpoint": town.url}})
    config = desk.place().config
    assert (config.mailbox_kind.value, config.broker_url) == ("mcp_agent_mail", town.url)
    assert desk.place().loaded.unknown == ()
    desk.configure(broker_url="http://127.0.0.1:1")
    assert desk.place().config.broker_url == "http://127.0.0.1:1"


@LONG  # it waits for as long as a look does
def test_a_server_that_is_slow_holds_up_no_look(town: Town, work: Path) -> None:
    over = threading.Event()
    town.fake.fault = lambda *_: None if over.wait(60) else (500, b"")
    try:
        assert "no answer within" in type_in(work, "status").out
    finally:
        over.set()


def test_the_tool_for_pi_types_what_the_commands_take(tmp_path: Path) -> None:
    source = (Path(__file__).resolve().parents[2] / "examples" / "pi" / "mail.ts").read_text()
    typed = [re.findall(r'"([^"]+)"', line) for line in source.splitlines() if line.strip().startswith("return [")]
    assert [words[0] for words in typed] == ["register", "read", "send", "reply", "contacts"]
    for command, *words in typed:
        helped = type_in(tmp_path, "mail", command, "--help")
        assert helped.status == 0
        options = [word for word in words if re.fullmatch(r"--\w[\w-]*", word)]
        assert [word for word in options if word not in helped.out] == [], command


def test_a_server_that_is_down_is_told_by_every_command(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.settings.pop("maildir_root")
    desk.configure(address="coder-1", mailbox="mcp_agent_mail", broker_url="http://127.0.0.1:1")
    for words in (
        ("mail", "inbox"),
        ("mail", "send", "--to", "a-1", "--subject", "s", "--body", "b"),
        ("mail", "register"),
    ):
        typed = type_in(desk.workdir, *words)
        assert typed.status == 69, typed.err
        assert "127.0.0.1:1" in typed.err
        assert "Traceback" not in typed.err
    assert type_in(desk.workdir, "verify").status == 69
    assert "not registered" in type_in(desk.workdir, "status").out


def test_delivered_names_are_those_that_the_recipient_sees(town: Town) -> None:
    async def scenario() -> None:
        await town.box().register()
        sender = town.box("other-1")
        delivered = await sender.deliver(only(sender.compose(draft("k", priority=Priority.URGENT), None, "t")))
        assert isinstance(delivered, Delivered)
        (envelope,) = await waiting(town.box())
        assert (envelope.id, envelope.priority) == (delivered.id, Priority.URGENT)

    asyncio.run(scenario())
