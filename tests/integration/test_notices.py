"""The operator is told once for each change, whatever happens to the watcher or to the command, and no mail waits."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.clocks import FakeClock
from tests.desk import SOON, Desk, until
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.checks import Level
from agent_mailer.checks.verify import doctor_checks
from agent_mailer.checks.workdir import check_notify
from agent_mailer.events import EventName, LogRecord
from agent_mailer.mailbox.port import Automatic, MailboxUnavailable
from agent_mailer.process.commands import run_briefly_async
from agent_mailer.state.records import PauseReason
from agent_mailer.state.requests import Request, Verb
from agent_mailer.watch.requests import apply
from agent_mailer.watch.room import Room
from agent_mailer.watch.watcher import Watcher

SAYS = 'cat >/dev/null; echo \'{"type":"result",%s}\''
ASKS = SAYS % '"outcome":"blocked","text":"what now?"'
DONE = SAYS % '"text":"ok"'
SIGNED_OUT = SAYS % '"outcome":"signed_out"'


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    found.configure(command_output="jsonl", max_retries=0, poll_interval_idle=1)
    found.tell(address="planner")
    return found


def notify(desk: Desk, script: str, **settings: Any) -> None:
    desk.tell(script, **{"address": "planner", **settings})


def kinds(desk: Desk) -> list[str]:
    return [row["kind"] for row in desk.notices()]


def mailed(desk: Desk) -> list[str]:
    found = desk.inbox("planner")
    assert all(message.envelope.automatic is Automatic.NOTICE for message in found)
    return [message.subject for message in found]


def waiting(desk: Desk) -> int:
    return len(desk.place().state.notices.told.waiting)


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["./tell"], "ok"),
        (["cat", "-"], "ok"),
        (["no-such-program"], "the command no-such-program is not in PATH"),
        (["./gone"], "/gone does not exist"),
        (["./"], "is a directory"),
        (["./plain"], "/plain is not executable"),
        (["./other"], "/other needs /no/such/shell, which is not there"),
    ],
)
def test_doctor_says_whether_the_command_is_there(desk: Desk, command: list[str], found: str) -> None:
    for name, shell, mode in (
        ("tell", "/bin/sh", 0o755),
        ("plain", "/bin/sh", 0o644),
        ("other", "/no/such/shell", 0o755),
    ):
        (desk.workdir / name).write_text(f"#!{shell}\n")
        (desk.workdir / name).chmod(mode)
    desk.configure(notify={"command": command})
    place = desk.place()
    [told] = check_notify(place.config.notify, place.notify_program)
    assert (told.looked_at, told.result is Level.OK) == ("notify.command", found == "ok")
    assert found in (told.text if found != "ok" else told.result.value)
    assert bool(told.fix) is (found != "ok")
    if command == ["./gone"]:
        assert told in doctor_checks(place)


# What is told.


def test_a_question_and_a_message_given_up_are_told_once_by_command_and_by_mail(desk: Desk) -> None:
    desk.shell(ASKS)
    asked = desk.send(thread="one")
    desk.once()
    desk.shell("exit 3")
    gone = desk.send(thread="two")
    desk.once()
    desk.once()
    assert kinds(desk) == ["blocked", "dead_letter"]
    assert [(row["message_id"], row["thread"], row["sender"]) for row in desk.notices()] == [
        (asked, "one", "user"),
        (gone, "two", "user"),
    ]
    assert mailed(desk) == ["coder: blocked", "coder: dead letter"]
    for row, message in zip(desk.notices(), desk.inbox("planner"), strict=True):
        assert row["text"] in message.body
        assert row["fix"] in message.body
        assert "what now?" not in message.body
        assert type_in(desk.base, *row["fix"].split()[1:]).status == 0
    sent = [(row["kind"], row["by"]) for row in desk.log(EventName.NOTICE_SENT)]
    assert sorted(sent) == [(kind, by) for kind in ("blocked", "dead_letter") for by in ("command", "mail")]
    assert waiting(desk) == 0


def test_a_notice_starts_no_turn_of_an_agent(desk: Desk) -> None:
    other = Desk(desk.base / "other")
    other.configure(address="planner", maildir_root=str(desk.root))
    desk.shell(ASKS)
    desk.send()
    desk.once()
    assert mailed(desk) == ["coder: blocked"]
    events = [event.event for event in other.once()]
    assert events == [EventName.MESSAGE_SKIPPED]


def test_who_wrote_the_message_himself_gets_no_second_word_about_it(desk: Desk) -> None:
    desk.configure(notify={"address": "user"})
    desk.shell(ASKS)
    desk.send()
    desk.send(sender="planner")
    desk.once()
    assert [message.subject for message in desk.inbox()] == ["Re: task", "coder: blocked"]


def test_a_pause_and_its_end_are_told_once_over_restarts(desk: Desk) -> None:
    desk.shell(SIGNED_OUT)
    desk.send()
    for _ in range(3):
        desk.once()
    assert [(row["kind"], row["reason"]) for row in desk.notices()] == [("paused", "signed_out")]
    assert desk.notices()[0]["until"]
    desk.resume()
    desk.shell(DONE)
    for _ in range(2):
        desk.once()
    assert [(row["kind"], row["reason"]) for row in desk.notices()][1:] == [("resumed", "signed_out")]
    assert mailed(desk) == ["coder: paused", "coder: resumed"]


def test_an_outage_that_is_over_at_the_first_probe_is_not_told(desk: Desk) -> None:
    desk.shell(SAYS % '"outcome":"unavailable"')
    desk.send()
    desk.once()
    assert kinds(desk) == []
    desk.once(FakeClock(time.time() + 60))
    assert kinds(desk) == ["paused"]
    desk.shell(DONE)
    desk.once(FakeClock(time.time() + 600))
    assert kinds(desk) == ["paused", "resumed"]


def test_a_pause_by_hand_is_not_told(desk: Desk) -> None:
    apply(desk.place().state, Request(Verb.PAUSE))
    desk.once()
    pause = desk.place().state.pause.read()
    assert pause is not None
    assert pause.reason is PauseReason.BY_HAND
    desk.resume()
    desk.once()
    assert kinds(desk) == []
    assert not (desk.state / "guards.json").exists()


def lives(desk: Desk, change: Callable[[Room], None], patience: float = SOON) -> None:
    """A watcher's life, as far as its notices are concerned; in the end it waits so long for what is being told."""
    place = desk.place()
    lock = place.lock()
    lock.acquire()

    async def tell() -> None:
        room = place.room(lock)
        room.notices.start(lambda fault: pytest.fail(repr(fault)))
        change(room)
        await room.notices.end(patience)

    try:
        place.prepare()
        asyncio.run(tell())
    finally:
        lock.release()


def test_trouble_and_its_end_are_told_once_by_whichever_watcher_and_what_is_short_by_none(desk: Desk) -> None:
    gone = MailboxUnavailable("mailbox_gone", "it is gone", "put it back")
    notify(desk, 'cat >>"$0"', trouble_after=600, address="")
    lives(desk, lambda room: room.troubles.begin("", gone))
    lives(desk, lambda room: room.notices.look(None))
    assert kinds(desk) == []
    notify(desk, 'cat >>"$0"', trouble_after=0, address="")
    for _ in range(2):
        lives(desk, lambda room: room.troubles.begin("", gone))
    assert [(row["kind"], row["why"], row["fix"]) for row in desk.notices()] == [("trouble", gone.message, gone.fix)]
    for _ in range(2):
        lives(desk, lambda room: room.notices.look(None))
    assert kinds(desk) == ["trouble", "trouble_over"]


@LONG
def test_trouble_that_lasts_and_its_end_are_told_once_over_restarts(desk: Desk) -> None:
    notify(desk, 'cat >>"$0"', trouble_after=0, address="")
    away = desk.root.with_name("away")
    with desk.watching():
        until((desk.root / "agents/coder/extensions/agent-mailer/watcher.pid").exists, "the watcher")
        desk.root.rename(away)
        until(lambda: kinds(desk) == ["trouble"], "the trouble")
        away.rename(desk.root)
        until(lambda: len(kinds(desk)) == 2, "the end of it")
        desk.root.rename(away)
        until(lambda: len(kinds(desk)) == 3 and not waiting(desk), "trouble once more")
    away.rename(desk.root)
    desk.once()
    desk.once()
    assert kinds(desk) == ["trouble", "trouble_over"] * 2
    assert {row["reason"] for row in desk.notices()} == {"mailbox"}
    assert desk.notices()[0]["why"]


# The command: beside the loop, for a while, a few times.


def watch(desk: Desk, story: Callable[[list[LogRecord]], Awaitable[None]], **notify: Any) -> list[LogRecord]:
    """A watcher in this process while `story` goes on; `notify` changes what cannot be configured."""
    place, events = desk.place(), list[LogRecord]()
    place.log.listen(events.append)
    lock = place.lock()
    lock.acquire()

    async def both() -> None:
        policy = place.policy()
        policy = msgspec.structs.replace(policy, notify=msgspec.structs.replace(policy.notify, **notify))
        room = place.room(lock, policy)
        watcher = Watcher(room)
        watching = asyncio.create_task(watcher.run())
        try:
            await story(events)
        finally:
            watcher.stop(0.0)
            await watching

    try:
        place.prepare()
        asyncio.run(both())
    finally:
        lock.release()
    return events


async def until_seen(events: list[LogRecord], event: EventName, count: int = 1) -> None:
    while sum(1 for one in events if one.event is event) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_a_command_that_fails_is_tried_a_few_times_and_no_mail_waits_for_it(desk: Desk) -> None:
    notify(desk, 'cat >>"$0"; echo "no such host" >&2; exit 6')
    desk.shell(ASKS)
    desk.send(thread="one")

    async def story(events: list[LogRecord]) -> None:
        await until_seen(events, EventName.TURN_SETTLED)
        await until_seen(events, EventName.NOTICE_GIVEN_UP)

    events = watch(desk, story, again_after=0.01)
    failed = [e.fields for e in events if e.event in (EventName.NOTICE_FAILED, EventName.NOTICE_GIVEN_UP)]
    assert [fields["why"] for fields in failed] == ["it ended with 6: no such host"] * 4
    assert kinds(desk) == ["blocked"] * 4
    assert len({row["id"] for row in desk.notices()}) == 1
    assert mailed(desk) == ["coder: blocked"]
    assert waiting(desk) == 0


def ask_in_vain(desk: Desk) -> None:
    """The agent asks, and it is tried to tell that until it is given up."""
    desk.shell(ASKS)
    desk.send()
    for _ in range(4):
        desk.once()


def test_what_reaches_nobody_is_a_problem_until_it_does(desk: Desk) -> None:
    broken = desk.base / "broken"
    broken.touch()
    notify(desk, f"test ! -e '{broken}' || exit 127", address="")
    ask_in_vain(desk)
    untold = [one for one in status(desk)["problems"] if one["code"] == "untold"]
    assert [one["text"] for one in untold] == ["what it tells you does not reach you: command: it ended with 127"]
    assert untold[0]["fix"].startswith("agent-mailer test-notify -C ")
    assert "does not reach you" in type_in(desk.workdir, "status").out
    assert type_in(desk.workdir, "test-notify").status == 1
    assert "untold" in codes(desk)
    with desk.watching():
        until(lambda: "no_watcher" not in codes(desk), "it watches")
        broken.unlink()
        assert type_in(desk.workdir, "test-notify").status == 0
        assert "untold" not in codes(desk)
    assert "untold" not in codes(desk)


def test_that_one_way_works_does_not_hide_that_another_fails(desk: Desk) -> None:
    notify(desk, "exit 127")
    ask_in_vain(desk)
    assert "untold" in codes(desk)
    tried = type_in(desk.workdir, "test-notify")
    assert (tried.status, tried.out.splitlines()) == (1, ["command: it ended with 127", "mail: told"])
    assert "untold" in codes(desk)


def test_the_next_that_is_told_is_enough(desk: Desk) -> None:
    told = desk.base / "fails"
    told.touch()
    notify(desk, f"test ! -e '{told}'", address="")
    ask_in_vain(desk)
    assert "untold" in codes(desk)
    told.unlink()
    desk.send(thread="another")
    desk.once()
    assert "untold" not in codes(desk)


def test_a_way_that_is_no_longer_wanted_is_no_problem(desk: Desk) -> None:
    notify(desk, "exit 1")
    ask_in_vain(desk)
    assert "untold" in codes(desk)
    desk.configure(notify={"address": "planner"})
    assert "untold" not in codes(desk)


def status(desk: Desk) -> dict[str, Any]:
    found: dict[str, Any] = type_in(desk.workdir, "status", "--json").json
    return found


def codes(desk: Desk) -> list[str]:
    return [one["code"] for one in status(desk)["problems"]]


def test_tries_are_counted_over_restarts(desk: Desk) -> None:
    notify(desk, 'cat >>"$0"; exit 1', address="")
    desk.shell(ASKS)
    desk.send()
    for _ in range(6):
        desk.once()
    assert kinds(desk) == ["blocked"] * 4
    assert len(desk.log(EventName.NOTICE_GIVEN_UP)) == 1


@pytest.mark.parametrize("command", [["/nonexistent/program"], ["./told"], ["true", "\0"]])
def test_a_command_that_cannot_be_started_is_an_event(desk: Desk, command: list[str]) -> None:
    desk.configure(notify={"command": command})
    desk.shell(ASKS)
    desk.send()
    desk.once()
    [failed] = desk.log(EventName.NOTICE_FAILED)
    assert "cannot be started" in failed["why"]
    assert len(desk.log(EventName.TURN_SETTLED)) == 1


HANGS = 'setsid sleep 600 & cat >>"$0"; sleep 600'


@LONG
def test_mail_goes_on_while_a_command_hangs(desk: Desk) -> None:
    notify(desk, HANGS, address="", timeout=600)
    desk.shell(ASKS)
    desk.send(thread="one")

    async def story(events: list[LogRecord]) -> None:
        await until_seen(events, EventName.TURN_SETTLED)
        while not desk.notices():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.to_thread(desk.send, thread="two")
        await until_seen(events, EventName.TURN_SETTLED, 2)

    events = watch(desk, story)
    assert not [e for e in events if e.event is EventName.NOTICE_FAILED]
    assert (kinds(desk), waiting(desk)) == (["blocked"], 2)


def test_a_command_that_hangs_is_ended_with_all_it_started(desk: Desk) -> None:
    notify(desk, HANGS, address="", timeout=1)
    desk.shell(ASKS)
    desk.send()
    desk.once()
    [failed] = desk.log(EventName.NOTICE_FAILED)
    assert failed["why"] == "it was not done after 1 s"
    assert not sleepers(desk)


def sleepers(desk: Desk) -> list[int]:
    """What runs with this workdir's notices in its environment."""
    needle = f"AGENT_MAILER_NOTICE_WORKDIR={desk.workdir}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_what_is_being_told_is_waited_for_only_so_long_and_the_next_one_tells(desk: Desk) -> None:
    notify(desk, HANGS, address="", timeout=600, trouble_after=0)
    gone = MailboxUnavailable("mailbox_gone", "it is gone", "put it back")
    began = time.monotonic()
    lives(desk, lambda room: room.troubles.begin("", gone), patience=0.2)
    assert time.monotonic() - began < SOON
    assert not sleepers(desk)
    assert waiting(desk) == 1
    notify(desk, 'echo >"$0"; cat >>"$0"', address="")
    lives(desk, lambda room: room.notices.wake())
    assert ('"kind":"trouble"' in (desk.base / "told").read_text(), waiting(desk)) == (True, 0)


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGUSR1])
@LONG
def test_a_watcher_that_leaves_does_not_wait_for_it_and_the_next_one_tells(desk: Desk, way: signal.Signals) -> None:
    notify(desk, 'cat >>"$0"; [ -e "$0.go" ] || sleep 600', timeout=600, address="")
    desk.shell(ASKS)
    desk.send()
    with desk.watching() as watcher:
        until(desk.notices, "the command")
        watcher.send_signal(way)
        assert watcher.wait(timeout=60) == 0
    assert not sleepers(desk)
    assert waiting(desk) == 1
    (desk.base / "told.go").touch()
    desk.once()
    desk.once()
    assert len(desk.notices()) == 2
    assert len({row["id"] for row in desk.notices()}) == 1
    assert waiting(desk) == 0


def test_a_watcher_that_is_killed_forgets_nothing(desk: Desk) -> None:
    notify(desk, 'cat >>"$0"; [ -e "$0.go" ] || sleep 600', timeout=600)
    desk.shell(ASKS)
    desk.send()
    with desk.watching() as watcher:
        until(lambda: desk.notices() and mailed(desk), "command and mail")
        watcher.kill()
        watcher.wait()
        until(lambda: not sleepers(desk), "the command ends with the watcher")
    (desk.base / "told.go").touch()
    desk.once()
    desk.once()
    assert len(desk.notices()) == 2
    assert mailed(desk) == ["coder: blocked"], "mail leaves once"


def test_what_the_command_sees(desk: Desk) -> None:
    notify(desk, 'cat >>"$0"; env >"$0.env"; pwd >"$0.pwd"', address="")
    desk.configure(api_key="amk_secret")
    desk.shell(ASKS)
    desk.send()
    os.environ.update(AGENT_MAILER_API_KEY="amk_secret", WEBHOOK_TOKEN="t")
    try:
        desk.once()
    finally:
        del os.environ["AGENT_MAILER_API_KEY"], os.environ["WEBHOOK_TOKEN"]
    [row] = desk.notices()
    seen = dict(line.split("=", 1) for line in (desk.base / "told.env").read_text().splitlines() if "=" in line)
    assert {name.removeprefix("AGENT_MAILER_NOTICE_").lower() for name in seen if "_NOTICE_" in name} == set(row)
    assert all(seen[f"AGENT_MAILER_NOTICE_{name.upper()}"] == str(value) for name, value in row.items())
    assert seen["WEBHOOK_TOKEN"] == "t"
    assert not [
        name for name in seen if name.startswith("AGENT_MAILER_") and "NOTICE" not in name and "TURN_ID" not in name
    ]
    assert (desk.base / "told.pwd").read_text().strip() == str(desk.workdir)
    assert "amk_secret" not in (desk.base / "told.env").read_text()


def test_the_operator_can_try_it(desk: Desk) -> None:
    done = type_in(desk.workdir, "test-notify")
    assert (done.status, done.out) == (0, "command: told\nmail: told\n"), done
    assert (kinds(desk), mailed(desk)) == (["test"], ["coder: test"])
    notify(desk, "echo 'curl: (6) no such host'; exit 6", address="nobody")
    done = type_in(desk.workdir, "test-notify", "--json")
    assert (done.status, done.json["ok"]) == (1, False)
    assert [row["by"] for row in done.json["ways"]] == ["command", "mail"]
    assert done.json["ways"][0]["why"] == "it ended with 6: curl: (6) no such host"
    assert "nobody" in done.json["ways"][1]["why"]
    desk.configure(notify={})
    assert type_in(desk.workdir, "test-notify").status == 78
    assert not (desk.state / "guards.json").exists()


# A short command beside a loop.


def test_a_command_beside_a_loop_takes_no_more_than_it_should(tmp_path: Path) -> None:
    async def run(script: str, seconds: float = 60.0, stdin: bytes = b"") -> tuple[int | None, int]:
        done = await run_briefly_async(
            ["/bin/sh", "-c", script],
            env={"PATH": os.environ["PATH"]},
            cwd=tmp_path,
            seconds=seconds,
            most_bytes=16384,
            mark="m",
            stdin=stdin,
        )
        return done.status, len(done.output)

    async def story() -> None:
        assert await run("yes | head -c 1000000") == (0, 16384)
        assert await run("exit 7", stdin=b"x" * 100_000) == (7, 0)
        assert await run("cat", stdin=b"x" * 4000) == (0, 4000)
        assert (await run("yes", seconds=0.2))[0] is None
        assert await run("kill -9 $$") == (137, 0)
        assert await run("exec >&- 2>&-; sleep 0.1; exit 3") == (3, 0)

    asyncio.run(story())
    left = subprocess.run(["pgrep", "-f", f"^/bin/sh.*{tmp_path}"], capture_output=True, check=False)
    assert left.stdout == b""


# Setting it.


def test_the_keys_of_a_table_are_set_like_others(desk: Desk) -> None:
    path = desk.state / "config.toml"
    path.write_text('# mine\naddress = "coder"\nruntime = "command"\n\n[retry]\nfirst = 1 # quick\n')

    def config(*words: str) -> tuple[int, str]:
        done = type_in(desk.workdir, "config", *words)
        return done.status, done.out + done.err

    assert config("set", "notify.command", "notify-send", "-u", "critical", "a mail")[0] == 0
    assert config("set", "notify.address", "boss")[0] == 0
    assert config("set", "retry.first", "5")[0] == 0
    found = path.read_text()
    assert "# mine" in found
    assert "# quick" in found
    notify = desk.place().config.notify
    assert (notify.command, notify.address) == (("notify-send", "-u", "critical", "a mail"), "boss")
    assert desk.place().config.retry.first == 5
    assert "notify-send" in config("show")[1]
    before = path.read_bytes()
    for words in (
        ["notify", "x"],
        ["notify.sound", "x"],
        ["notify.timeout", "0"],
        ["retry.first", "x"],
        ["env.set", "x"],
    ):
        status, said = config("set", *words)
        assert status == 2, said
        assert words[0].partition(".")[0] in said
    assert path.read_bytes() == before
    assert config("set", "notify.command", "")[0] == 0
    assert desk.place().config.notify.command == ()
