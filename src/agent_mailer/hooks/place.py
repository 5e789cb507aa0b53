"""Where a folder's hook keeps what it knows: in the user's state folder, where no agent may look or write."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import MailerError, UsageFault, words_of
from agent_mailer.names import pick, printable
from agent_mailer.outside.rules import BAD_NAME, is_hook_name

_LONGEST_SECRET = 200


class HookPlace:
    """The hook `name` of the folder mailbox at `root`, an absolute path. Raises UsageFault for a name that is none."""

    def __init__(self, state: Path, root: Path, name: str, disk: Disk) -> None:
        if not is_hook_name(name):
            raise UsageFault("bad_hook_name", f"{printable(name, 60)!r}: {BAD_NAME}", "agent-mailer hook --help")
        self.name = name
        self.root = root
        self._disk = disk
        self.path = _hooks_of(state, root) / name
        self.lock = self.path / "lock"
        self.book = self.path / "deliveries.db"

    @property
    def exists(self) -> bool:
        return (self.path / "secret").is_file()

    def make(self) -> None:
        """Make what is missing. Raises OSError."""
        self._disk.make_directory(self.path, sync=Sync.FULL)
        if not self.exists:
            self.roll()

    def secret(self) -> str:
        """What its callers sign with; read anew each time, so that another counts at once. Raises MailerError."""
        try:
            found = read_regular(self.path / "secret", _LONGEST_SECRET).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = f"the secret of the hook {self.name} cannot be read: {words_of(error)}"
            raise MailerError("no_secret", why, f"agent-mailer hook secret {self.name} --roll") from None
        if not found:
            why = f"the secret of the hook {self.name} is empty"
            raise MailerError("no_secret", why, f"agent-mailer hook secret {self.name} --roll")
        return found

    def roll(self) -> None:
        """Another secret; the one before counts no more. Raises OSError."""
        self._disk.replace(self.path / "secret", f"amh_{secrets.token_hex(32)}\n".encode(), sync=Sync.FULL)


def hook_at(state: Path, root: Path, typed: str | None, disk: Disk) -> HookPlace:
    """The hook meant: that of the name, or the only one there is. Raises MailerError, UsageFault."""
    known = hook_names(state, root)
    if typed is None and len(known) == 1:
        typed = known[0]
    if typed is None:
        there = f"there is: {', '.join(known)}" if known else "agent-mailer hook github --to AGENT"
        raise UsageFault("which_hook", "which hook is meant?" if known else f"{root} has no hook yet", there)
    chosen = pick(typed, known, "hook", "agent-mailer hook list")
    return HookPlace(state, root, chosen, disk)


def hook_names(state: Path, root: Path) -> list[str]:
    """Of the hooks of that folder mailbox, sorted."""
    try:
        found = sorted(os.listdir(_hooks_of(state, root)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name for name in found if is_hook_name(name)]


def _hooks_of(state: Path, root: Path) -> Path:
    return state / "hooks" / hashlib.sha256(os.fsencode(root)).hexdigest()[:24]
