"""docs/reference/reasons.md, row by row: each reason is set up, and `status` shows what the page says."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests import procfs
from tests.desk import Desk, until
from tests.integration.test_stuck import file, put
from tests.pages import PROJECT, page, table
from tests.sizes import thinned
from tests.typed import type_in
from tests.unit.test_spec import _names_in

from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.mailbox.port import Automatic
from agent_mailer.state.notices import TroubleWith
from agent_mailer.state.pauses import SignedOut
from agent_mailer.state.records import Pause, PauseReason
from agent_mailer.state.stuck import StuckKind
from agent_mailer.state.workdirs import remember
from agent_mailer.views.values.status import Problem

PAGE = "docs/reference/reasons.md"
ROWS = {row["reason"]: row for row in table(page(PAGE), "reason", "`status`")}
TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")
COMMAND = re.compile(r"`agent-mailer ([a-z -]+?)(?: --[a-z]+)?`")

Scene = Callable[[Desk], AbstractContextManager[Any]]


@contextmanager
def watched(desk: Desk) -> Iterator[Any]:
    before = len(desk.log(EventName.WATCH_STARTED))
    with desk.watching() as watcher:
        until(lambda: len(desk.log(EventName.WATCH_STARTED)) > before, "the watcher")
        yield watcher


@contextmanager
def no_watcher(desk: Desk) -> Iterator[None]:
    desk.send()
    yield


@contextmanager
def halted(desk: Desk) -> Iterator[None]:
    with watched(desk) as watcher:
        procfs.halt(watcher.pid)
        yield


@contextmanager
def no_mailbox(desk: Desk) -> Iterator[None]:
    with watched(desk):
        until(Paths(desk.root, "coder").lock.exists, "the open mailbox")
        desk.root.rename(desk.base / "elsewhere")
        yield
        (desk.base / "elsewhere").rename(desk.root)


@contextmanager
def damaged(desk: Desk) -> Iterator[None]:
    desk.once()
    (desk.state / "usage.json").write_text("{torn")
    yield


@contextmanager
def open_modes(desk: Desk) -> Iterator[None]:
    remember(desk.workdir)
    (desk.state / "config.toml").chmod(0o644)
    yield


@contextmanager
def no_program(desk: Desk) -> Iterator[None]:
    desk.configure(command=["no-such-agent"])
    with watched(desk):
        yield


@contextmanager
def no_login(desk: Desk) -> Iterator[None]:
    with watched(desk):
        desk.place().state.login.learn(SignedOut(time.time(), "not logged in"))
        yield


def paused(reason: PauseReason, since: float, until_moment: float | None, **more: Any) -> Scene:
    @contextmanager
    def scene(desk: Desk) -> Iterator[None]:
        now = time.time()
        pause = Pause(reason, now + since, None if until_moment is None else now + until_moment, **more)
        desk.place().state.pause.write(pause)
        with watched(desk):
            desk.send()
            yield

    return scene


@contextmanager
def behind(desk: Desk) -> Iterator[None]:
    desk.shell("cat >/dev/null; sleep 600")
    with watched(desk):
        desk.send(thread="t")
        until(lambda: desk.log(EventName.TURN_STARTED), "the first turn")
        desk.send(thread="t")
        yield


@contextmanager
def to_retry(desk: Desk) -> Iterator[None]:
    desk.configure(retry={"first": 3600, "longest": 3600})
    desk.shell("cat >/dev/null; exit 3")
    desk.send()
    with watched(desk):
        until(lambda: desk.log(EventName.RETRY_SCHEDULED), "the retry")
        yield


@contextmanager
def given_up(desk: Desk) -> Iterator[None]:
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; exit 3")
    desk.send()
    desk.once()
    with watched(desk):
        yield


@contextmanager
def unreadable(desk: Desk) -> Iterator[None]:
    put(desk, "bad", b"no message at all")
    with watched(desk):
        until(lambda: desk.log(EventName.MESSAGE_STUCK), "it is told")
        yield


@contextmanager
def used_id(desk: Desk) -> Iterator[None]:
    put(desk, "same", file("same", "one"))
    desk.once()
    put(desk, "same", file("same", "another"))
    with watched(desk):
        until(lambda: desk.log(EventName.MESSAGE_STUCK), "it is told")
        yield


@contextmanager
def asks(desk: Desk) -> Iterator[None]:
    desk.shell("cat >/dev/null; agent-mailer mail finish --blocked 'May I?'")
    desk.send()
    with watched(desk):
        until(lambda: desk.log(EventName.TURN_SETTLED), "the turn")
        yield


@contextmanager
def settled(desk: Desk) -> Iterator[None]:
    sent = desk.send()
    desk.once()
    box = desk.root / "agents/coder/inbox"
    shutil.copy(box / "cur" / f"{sent}.md", box / "new" / f"{sent}.md")
    with watched(desk):
        until(lambda: desk.log(EventName.MESSAGE_SET_ASIDE), "it is put aside")
        yield


@contextmanager
def notice(desk: Desk) -> Iterator[None]:
    desk.send(automatic=Automatic.NOTICE)
    with watched(desk):
        until(lambda: desk.log(EventName.MESSAGE_SKIPPED), "it is passed by")
        yield


@contextmanager
def dropped(desk: Desk) -> Iterator[None]:
    desk.shell("cat >/dev/null; sleep 600")
    desk.send()
    with watched(desk):
        until(lambda: desk.log(EventName.TURN_STARTED), "the turn")
        assert (
            type_in(desk.workdir, "turns", "stop", desk.log(EventName.TURN_STARTED)[0]["turn_id"], "--drop").status == 0
        )
        until(lambda: desk.log(EventName.MESSAGE_DONE), "its end")
        yield


SCENES: dict[str, Scene] = {
    "no watcher runs": no_watcher,
    "the watcher was halted by a signal": halted,
    "the mailbox is gone, or its broker does not answer": no_mailbox,
    "a state file is damaged": damaged,
    "the workdir is not as it must be (modes, configuration)": open_modes,
    "the agent program is not there": no_program,
    "the agent program has no login, seen at the start": no_login,
    "the agent program has lost its login": paused(PauseReason.SIGNED_OUT, 0, 600),
    "a limit whose end the provider named": paused(PauseReason.LIMITED, -6000, 600),
    "an outage, or a limit without a known end": paused(PauseReason.UNAVAILABLE, -6000, 600),
    "paused by hand": paused(PauseReason.BY_HAND, -6000, None),
    "an older message of its thread is worked on, or is to be tried again": behind,
    "its turn failed, and is tried again": to_retry,
    "it was given up (`given-up`)": given_up,
    "it cannot be read (`unreadable`)": unreadable,
    "another message under a used id (`used-id`)": used_id,
    "a person has dropped it (`turns stop --drop`, `stuck drop`)": dropped,
    "its agent asks a question": asks,
    "it is settled already, the same message": settled,
    "it is a notice": notice,
}


def seen(desk: Desk) -> tuple[int, set[str]]:
    done = type_in(desk.workdir, "status", "--json")
    return done.status, {problem["code"] for problem in done.json.get("problems", [])}


def shows(desk: Desk, said: str) -> bool:
    """Whether `status` shows what the page says."""
    status, codes = seen(desk)
    wanted = set(re.findall(r"`([a-z_]+)`", said))
    if said.startswith("an error"):
        everywhere = type_in(desk.workdir, "status", "--all", "--json").json["workdirs"]
        return status == 78 and {p["code"] for one in everywhere for p in one["problems"]} == wanted
    if "problem" in said:
        return status == 1 and bool(codes & wanted)
    if not (desk.state / "log.jsonl").exists():
        return False
    found = type_in(desk.workdir, "status", "--json").json
    shown = {
        "waiting": found["pause"] is not None,
        "in the queue": found["mailbox"]["waiting"] == 1,
        "as a retry": bool(found["retries"]),
        "as blocked": bool(found["blocked"]),
        "not counted": found["mailbox"]["waiting"] == 0,
    }
    return status == 0 and any(word in said and true for word, true in shown.items())


@pytest.mark.parametrize("reason", thinned(sorted(SCENES)))
def test_status_shows_what_the_page_says(reason: str, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with SCENES[reason](desk):
        until(lambda: shows(desk, ROWS[reason]["`status`"]), f"{ROWS[reason]['`status`']}: {reason}", 20.0)


def test_every_row_is_set_up_or_names_its_test() -> None:
    assert {reason for reason, row in ROWS.items() if row["seen by"] == "set up"} == set(SCENES)
    for reason, row in ROWS.items():
        if row["seen by"] != "set up":
            exists(row["seen by"], reason)


def exists(cell: str, of: str) -> None:
    found = TEST.fullmatch(cell)
    assert found, f"{of}: {cell} is no test"
    assert found[2] in _names_in(PROJECT / found[1]), f"{of}: there is no {cell}"


def test_every_report_of_a_loss_has_a_test_or_a_sentence() -> None:
    kinds = table(page(PAGE), "kind", "seen by")
    assert len(kinds) >= 5
    for row in kinds:
        exists(row["seen by"], row["kind"])
    for row in table(page(PAGE), "report", "what happened"):
        if not row["here"].startswith(("cannot happen: ", "not ours: ")):
            exists(row["here"], row["report"])


def test_no_reason_of_the_program_is_left_out() -> None:
    text = page(PAGE)
    assert {f"`{kind.value}`" for kind in StuckKind} <= set(re.findall(r"`[a-z-]+`", text))
    assert {problem.value for problem in Problem} - {"paused"} <= set(re.findall(r"`([a-z_]+)`", text))
    for word in (
        "limit",
        "login",
        "outage",
        "by hand",
        "within an hour",
        "of a day is taken",
        "quiet hours",
        "the machine",
    ):
        assert any(word in reason for reason in ROWS), word
    assert len(PauseReason) == 8
    assert len(TroubleWith) == 3


def test_what_takes_it_up_are_commands(tmp_path: Path) -> None:
    commands = {found for row in ROWS.values() for found in COMMAND.findall(row["taken up by"])}
    assert len(commands) > 4
    for words in commands:
        done = type_in(tmp_path, *words.split(), "--help")
        assert (done.status, done.err) == (0, ""), words


def test_it_can_be_found() -> None:
    assert "(reference/reasons.md)" in page("docs/README.md")
