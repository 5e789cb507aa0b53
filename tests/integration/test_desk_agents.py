"""What the pages of this machine are told of workdirs that share a mailbox."""

from __future__ import annotations

from pathlib import Path

from tests.desk import Desk

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
    coder.send("done", sender="coder", to="user")
    assert mail.unread() == 1
