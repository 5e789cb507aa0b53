"""Lost mail and spent attempts that other projects have reported, by their numbers (docs/reference/reasons.md)."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
from tests import procfs
from tests.desk import Desk, until
from tests.refusing import On, Refusing
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.layout import Paths


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def attempts(desk: Desk) -> list[int]:
    return [int(row["attempt"]) for row in desk.log(EventName.TURN_CLAIMED)]


@LONG
def test_a_planned_stop_spends_nothing(desk: Desk) -> None:
    """openclaw#125918."""
    desk.configure(stop_grace=1, max_retries=0)
    gate = desk.base / "gate"
    desk.shell(f"cat >/dev/null; test -e {gate} || sleep 600; echo done")
    desk.send()
    for number in (1, 2, 3):
        with desk.watching() as watcher:
            until(lambda number=number: len(desk.log(EventName.TURN_STARTED)) == number, "the turn")  # type: ignore[misc]
            watcher.send_signal(signal.SIGTERM)
            assert watcher.wait(60) == 0
    [entry] = desk.place().state.retries.all()
    assert (entry.attempts, len(entry.history)) == (0, 3)
    gate.touch()
    desk.once()
    assert [message.body.strip() for message in desk.inbox()] == ["done"]
    assert desk.place().state.dead_letters.count() == 0


@LONG
def test_a_refusal_for_want_of_capacity_spends_nothing(desk: Desk) -> None:
    """openclaw#112317."""
    desk.configure(max_retries=0)
    sent = desk.send()
    for _ in range(5):
        desk.once(system=Refusing("turns/*", On.MKDIR, code=errno.EAGAIN))
    assert [path.stem for path in Paths(desk.root, "coder").new.glob("*.md")] == [sent]
    assert list(desk.place().state.retries.all()) == []
    desk.once()
    assert attempts(desk) == [1]
    assert len(desk.inbox()) == 1
    # What the provider refuses is not the message's fault either.
    desk.shell("""cat >/dev/null; echo '{"type":"result","outcome":"limited","text":"busy"}'""")
    desk.configure(command_output="jsonl")
    desk.send(thread="limited")
    for _ in range(5):
        desk.resume()
        desk.once()
    [entry] = desk.place().state.retries.all()
    assert (entry.attempts, entry.starts) == (0, 0)


def test_a_long_turn_ahead_spends_nothing(desk: Desk) -> None:
    """openclaw#133245."""
    desk.configure(max_retries=0)
    hold = desk.base / "hold"
    os.mkfifo(hold)
    desk.shell(f"cat >/dev/null; test -e {desk.base}/second || {{ touch {desk.base}/second; cat {hold}; }}; echo done")
    sent = [desk.send(thread="long"), desk.send(thread="long"), desk.send(thread="other")]
    new = Paths(desk.root, "coder").new
    with desk.watching():
        until(lambda: desk.log(EventName.TURN_STARTED), "the long turn")
        # As if they had waited for a day.
        for name in sent[1:]:
            os.utime(new / f"{name}.md", (0, 0))
        assert type_in(desk.workdir, "status", "--json").json["mailbox"]["waiting"] == 2
        with hold.open("w"):
            pass
        until(lambda: len(desk.log(EventName.TURN_SETTLED)) == 3, "all of them")
    assert attempts(desk) == [1, 1, 1]
    assert len(desk.inbox()) == 3


def test_a_claim_is_freed_by_its_holders_death_and_not_by_its_age(desk: Desk) -> None:
    """openclaw#90940, #96374."""
    desk.shell("cat >/dev/null; sleep 600")
    with desk.watching() as watcher:
        desk.send()
        until(lambda: desk.log(EventName.TURN_STARTED), "the turn")
        procfs.halt(watcher.pid)
        held = [desk.state / ".lock", Paths(desk.root, "coder").lock, *(desk.state / "turns").rglob("turn.json")]
        for path in held:
            os.utime(path, (0, 0))
        refused = type_in(desk.workdir, "watch", "--once")
        assert (refused.status, str(watcher.pid) in refused.err) == (75, True), refused
        watcher.kill()
        watcher.wait()
        with desk.watching():
            until(lambda: desk.log(EventName.TURN_ADOPTED), "the next one takes it up at once")
    assert attempts(desk) == [1]


def test_dead_mail_is_loud_and_can_be_replayed(desk: Desk) -> None:
    """openclaw#120422."""
    told = desk.base / "told"
    desk.configure(max_retries=0, notify={"command": ["/bin/sh", "-c", f"cat >> {told}; echo >> {told}"]})
    desk.shell("cat >/dev/null; exit 3")
    sent = desk.send()
    desk.once()
    [to_sender] = desk.inbox()
    assert "given up" in to_sender.body
    assert told.read_text().count('"dead_letter"') == 1
    done = type_in(desk.workdir, "status", "--json")
    assert (done.status, done.json["dead_letters"]) == (1, 1)
    desk.shell("cat >/dev/null; echo done")
    assert type_in(desk.workdir, "stuck", "retry", sent).status == 0
    desk.once()
    assert [message.body.strip() for message in desk.inbox()][1:] == ["done"]
    assert type_in(desk.workdir, "status", "--json").json["dead_letters"] == 0
