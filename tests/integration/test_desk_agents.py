"""What the pages of this machine are told of workdirs that share a mailbox."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from tests.desk import Desk, until

from agent_mailer import lying
from agent_mailer.console.own.port import mark_of
from agent_mailer.desk.here import AgentsHere
from agent_mailer.desk.looking import Looking
from agent_mailer.desk.mail import MailHere
from agent_mailer.desk.reported import Looked
from agent_mailer.mailbox.maildir.amq import announce
from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.mailbox.port import Envelope, Presence
from agent_mailer.names import new_turn_id
from agent_mailer.state.records import Phase, TurnRecord
from agent_mailer.views.values.needs import NeedKind


def test_of_those_in_one_mailbox_whose_watcher_has_died_is_lost(tmp_path: Path) -> None:
    coder, planner, idle = (Desk(tmp_path / name) for name in ("coder", "planner", "idle"))
    planner.configure(address="planner", maildir_root=str(coder.root))
    idle.configure(maildir_root=str(tmp_path / "nowhere"))
    for name, said in (("coder", Presence.ACTIVE), ("planner", Presence.OFFLINE)):
        paths = Paths(coder.root, name)
        announce(coder.disk, paths, name, 1_700_000_000.0, said)
        paths.own.mkdir(parents=True, exist_ok=True)
        paths.lock.touch()
    here = AgentsHere([coder.workdir, planner.workdir, idle.workdir])
    lost = [need.agent_id for need in here.needs().needs if need.kind is NeedKind.LOST]
    assert lost == [str(coder.workdir)]
    assert {one.agent_id: one.lost for one in here.agents(1).agents}[str(planner.workdir)] is False
    mail = MailHere(here.looking)
    assert mail.unread() == 0


@pytest.mark.parametrize("mail", ["in a folder", "in a folder that is gone", "at a broker"])
def test_whose_watcher_died_in_the_middle_of_a_turn_is_lost_wherever_its_mail_is(tmp_path: Path, mail: str) -> None:
    desk = Desk(tmp_path)
    if mail == "at a broker":
        del desk.settings["maildir_root"]
        url = "http://127.0.0.1:9"  # nobody asks there
        desk.configure(mailbox="amp", broker_url=url, api_key="amk_x", agent_id="a", address="a@x.example")
    elif mail == "in a folder that is gone":
        desk.root.rename(tmp_path / "elsewhere")
    here = AgentsHere([desk.workdir])

    def lost() -> tuple[list[bool], bool]:
        return [one.lost for one in here.agents(1).agents], NeedKind.LOST in {need.kind for need in here.needs().needs}

    place = desk.place()
    place.prepare()
    assert lost() == ([False], False), "nobody says that it was not stopped"
    now = time.time()
    envelope = Envelope("m", "t", "user", now, "", "")
    place.state.turns.create(TurnRecord(new_turn_id(now), envelope, Phase.RUNNING, "command", now))
    assert lost() == ([True], True)


def test_since_when_an_agent_is_kept_from_its_work_is_the_same_whatever_page_is_opened_meanwhile(
    tmp_path: Path,
) -> None:
    desks = [Desk(tmp_path / name) for name in ("one", "other")]
    away = [desk.root.rename(desk.base / "away") for desk in desks]
    here = AgentsHere([desk.workdir for desk in desks])

    def since() -> list[float]:
        needs = {need.agent_id: need.since for need in here.needs().needs if need.kind is NeedKind.TROUBLE}
        return [needs[str(desk.workdir)] for desk in desks]

    first = since()
    page = here.agent(str(desks[0].workdir))
    assert page is not None
    assert [need.since for need in page.shown.needs if need.kind is NeedKind.TROUBLE] == first[:1]
    assert since() == first
    # What is over and comes again is new, also where only its own page has seen that it was over.
    away[0].rename(desks[0].root)
    here.agent(str(desks[0].workdir))
    desks[0].root.rename(away[0])
    again = since()
    assert (again[0] > first[0], again[1:]) == (True, first[1:])


def test_a_page_names_a_workdir_by_its_path_and_no_other_of_that_name(tmp_path: Path) -> None:
    one, other = (Desk(tmp_path / name) for name in ("work", "home"))
    assert one.workdir.name == other.workdir.name
    looking = Looking([one.workdir, other.workdir])
    for desk in (one, other):
        found = looking.place(str(desk.workdir))
        assert found is not None
        assert found.workdir == desk.workdir
    assert looking.place(str(tmp_path / "elsewhere" / one.workdir.name)) is None


def test_every_thread_is_on_some_page_also_where_many_came_at_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    mail = MailHere(AgentsHere([desk.workdir]).looking)
    names = [f"th-{number}" for number in (3, 1, 4, 2)]
    for name in names:
        desk.send("x", sender="planner", thread=name)
    for path in desk.root.rglob("*.md"):
        # As if all had come in one moment.
        text = path.read_text()
        path.write_text(re.sub(r'("created": ")[^"]*"', r'\g<1>2026-01-02T03:04:05.678901Z"', text))
    found: list[str] = []
    after = ""
    for _ in range(3):
        rows = mail.threads(unread=False, mine=False, agent="", after=after, most=2).rows
        found += [row.id for row in rows]
        after = mark_of(rows[-1].last_activity, rows[-1].id) if rows else after
    assert sorted(found) == sorted(names)


def test_what_waits_for_the_person_is_counted(tmp_path: Path) -> None:
    coder = Desk(tmp_path)
    mail = MailHere(AgentsHere([coder.workdir]).looking)
    assert mail.unread() == 0
    coder.send("done", sender="coder", to="user")
    assert mail.unread() == 1


def test_what_has_rested_is_not_listed_again_and_what_moves_is_seen_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than a tick of any kernel, shorter than a step here.
    monkeypatch.setattr(lying, "SETTLED_NS", 20_000_000)
    desk = Desk(tmp_path)
    here = AgentsHere([desk.workdir])
    mail = MailHere(here.looking)
    new, cur = (desk.root / "agents/coder/inbox" / name for name in ("new", "cur"))

    def rest() -> None:
        moved = [path for path in (new, cur, desk.state / "processed.txt") if path.exists()]
        until(lambda: time.time_ns() - max(one.stat().st_ctime_ns for one in moved) > 2 * lying.SETTLED_NS, "rest")

    def look() -> tuple[int, set[str]]:
        """How many another reader has taken, and which threads there are; twice the same."""
        rest()
        found = []
        for _ in range(2):
            looked = here.looking.one(desk.workdir)
            assert isinstance(looked, Looked)
            rows = mail.threads(unread=False, mine=False, agent="", after="", most=9).rows
            found.append((looked.view.mailbox.elsewhere, {row.id for row in rows}))
        assert found[0] == found[1]
        return found[0]

    desk.send("x", thread="one")
    assert look() == (0, {"one"})
    desk.send("x", thread="two")
    assert look() == (0, {"one", "two"})
    for path in sorted(new.iterdir()):
        path.rename(cur / path.name)
    assert look() == (2, {"one", "two"})
    first = min(cur.iterdir())
    (desk.state / "processed.txt").write_text(f"{first.stem}\n")
    assert look()[0] == 1
    desk.root.joinpath("agents/user/outbox/sent", first.name).unlink(missing_ok=True)
    first.unlink()
    assert len(look()[1]) == 1
