"""The maildir adapter under the suite that every mailbox must pass."""

from __future__ import annotations

from pathlib import Path

from agent_mailer.disk import Disk
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.layout import Paths, make_root
from agent_mailer.mailbox.port import Envelope, Outgoing
from agent_mailer.testing.mailbox_suite import MailboxSuite


class MaildirHarness:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        make_root(Disk(), self.root, ["alice", "bob"])
        self.paths = Paths(self.root, "alice")

    def mailbox(self) -> MaildirMailbox:
        return MaildirMailbox(Disk(), self.root, "alice")

    def peer(self) -> MaildirMailbox:
        return MaildirMailbox(Disk(), self.root, "bob")

    def arrive_again(self, item: Outgoing) -> None:
        (self.paths.new / f"{item.id}.md").write_text(item.payload)

    def arrive_unreadable(self, name: str) -> None:
        (self.paths.new / f"{name}.md").write_text("---json\n{")

    def steal(self, envelope: Envelope) -> None:
        (self.paths.new / envelope.locator).rename(self.paths.cur / envelope.locator)


class TestMaildir(MailboxSuite):
    def harness(self, folder: Path) -> MaildirHarness:
        return MaildirHarness(folder)
