"""What tells one file from another that has its name: by its content, or where that cannot be read, by its place; and
what is said where the system tells nothing.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from agent_mailer.beneath import open_file
from agent_mailer.disk import read_regular
from agent_mailer.errors import mend
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES, TOO_LARGE, Malformed, to_locator
from agent_mailer.mailbox.port import MailboxUnavailable, Unreadable
from agent_mailer.names import sha256

_END_BYTES: Final = 64 * 1024


def file_digest(path: Path) -> str:
    """Tells what lies under a name from what else may: of the whole content, and the ends of a large one; of what
    cannot be read, of which file it is.
    """
    try:
        data = read_regular(path, MAX_MESSAGE_BYTES)
        if len(data) > MAX_MESSAGE_BYTES:
            with os.fdopen(open_file(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
                stream.seek(-_END_BYTES, os.SEEK_END)
                data = b"%d " % os.fstat(stream.fileno()).st_size + data + stream.read(_END_BYTES)
    except OSError:
        return place_digest(path)
    return bytes_digest(data)


def place_digest(path: Path) -> str:
    """Of what has no content to be read: a FIFO, a link, a folder. It stays the same where that is moved to."""
    try:
        found = os.lstat(path)
    except OSError:
        return ""
    return bytes_digest(b"%d %d %d" % (stat.S_IFMT(found.st_mode), found.st_ino, found.st_mtime_ns))


def bytes_digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def unreadable(path: Path, why: Malformed) -> Unreadable:
    """A file that is no message, as the port tells of it."""
    return Unreadable(
        to_locator(path.name),
        f"{why.reason.value}: {why.why}",
        why.why == TOO_LARGE,
        why.id,
        why.thread,
        why.sender,
        file_digest(path),
        why.reply_to,
    )


def unavailable(what: object, fault: OSError) -> MailboxUnavailable:
    why = f"the mailbox cannot be used: {what}: {fault.strerror or fault}"
    return MailboxUnavailable("mailbox_unavailable", why, mend(fault, what))
