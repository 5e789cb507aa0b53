"""What the pages of this machine are told of workdirs that share a mailbox."""

from __future__ import annotations

import re
from pathlib import Path

from tests.desk import Desk

from agent_mailer.console.own.port import mark_of
from agent_mailer.desk.here import AgentsHere
from agent_mailer.desk.mail import MailHere
from agent_mailer.mailbox.maildir.amq import announce
from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.mailbox.port import Presence
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
    assert {one.agent_id: one.lost for one in here.agents().agents}[str(planner.workdir)] is False
    mail = MailHere(here.looking)
    assert mail.unread() == 0


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
