"""What was put away, listed again: out of AMQ's dead letters or our own `aside`, found by its name and content."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.mailbox.maildir.dated import MAX_INDEXED
from agent_mailer.mailbox.maildir.delivery import (
    MAX_DLQ_HEADER_BYTES,
    holds,
    parse_dead_letter,
    publish,
    temporary_name,
)
from agent_mailer.mailbox.maildir.digests import bytes_digest, file_digest, place_digest, unavailable
from agent_mailer.mailbox.maildir.format import (
    MAX_MESSAGE_BYTES,
    Malformed,
    from_locator,
    parse_message,
    under_other_id,
)
from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.mailbox.port import Refused, content_digest
from agent_mailer.names import path_name, text_digest

_MARK: Final = b"\n---\n"
LARGEST: Final = MAX_MESSAGE_BYTES + 64 * 1024
"""Of an envelope with the largest message that can be one."""


class Letters:
    """Of which file each dead letter is. Its name is its own for ever: what was read once is not read again."""

    def __init__(self, size: int = MAX_INDEXED) -> None:
        self._size = size
        self._known: dict[str, str] = {}

    def of(self, folder: Path, name: str) -> Iterator[Path]:
        """Those in `folder` of the file called `name`."""
        for letter in _names(folder):
            place = f"{folder}/{letter}"
            known = self._known.get(place)
            if known is None:
                with suppress(OSError):
                    found = parse_dead_letter(read_regular(Path(place), MAX_DLQ_HEADER_BYTES))
                    known = found.original_file if found is not None else ""
                    if len(self._known) < self._size:
                        self._known[place] = known
            if known == name:
                yield Path(place)


def put_back(disk: Disk, paths: Paths, letters: Letters, locator: str, digest: str, new_id: str) -> Refused | None:
    """As the port says. The file is durable in `new` before what was put away goes. Raises MailboxUnavailable."""
    try:
        name = from_locator(locator)
    except ValueError:
        return Refused("its locator names no message file")
    try:
        return _put_back(disk, paths, letters, name, digest, new_id)
    except OSError as fault:
        raise unavailable(paths.home, fault) from fault


def _put_back(disk: Disk, paths: Paths, letters: Letters, name: str, digest: str, new_id: str) -> Refused | None:
    target = f"{new_id}.md" if new_id else name
    kept = _kept(paths, letters, name)
    found = next((one for one in kept if _is(one[1], name, digest) or place_digest(one[0]) == digest), None)
    if found is None:
        if any(_is(data, name, digest) or (new_id and data) for data in _listed(paths, target)):
            return None
        return Refused(_unreadable(paths, name, digest) or "it is neither in dlq nor in aside any more")
    source, data = found
    parsed = parse_message(data, name)
    if isinstance(parsed, Malformed):
        return Refused(f"it is no message: {parsed.why}")
    if new_id:
        data = under_other_id(data, new_id)
    there = [holds(folder / target, data) for folder in (paths.new, paths.cur)]
    if True not in there:
        if there != [None, None]:
            return Refused(f"another message has its name, {target}")
        temporary = paths.tmp / temporary_name(target)
        disk.create(temporary, data, sync=Sync.CONTENT)
        publish(disk, temporary, paths.new / target)
    else:
        # An earlier try may have ended between the rename and its sync.
        disk.sync_directory((paths.new, paths.cur)[there.index(True)])
    disk.remove(source)
    return None


def _kept(paths: Paths, letters: Letters, name: str) -> Iterator[tuple[Path, bytes]]:
    """What was put away under this name, and its content."""
    for path in _aside(paths, name):
        with suppress(OSError):
            yield path, read_regular(path, MAX_MESSAGE_BYTES)
    for folder in (paths.dlq_new, paths.dlq_cur):
        for path in letters.of(folder, name):
            with suppress(OSError):
                # The header is JSON over several lines: the mark cannot be within it.
                yield path, read_regular(path, LARGEST)[4:].partition(_MARK)[2]


def _aside(paths: Paths, name: str) -> list[Path]:
    ending = f"-{path_name(name)}"
    return [paths.aside / kept for kept in _names(paths.aside) if kept.endswith(ending) and not kept.startswith(".")]


def _unreadable(paths: Paths, name: str, digest: str) -> str:
    """Where it lies aside, and why it can be no message; empty where it does not. An earlier version kept no digest."""
    for path in _aside(paths, name):
        if digest not in ("", file_digest(path)):
            continue
        try:
            if len(read_regular(path, MAX_MESSAGE_BYTES)) > MAX_MESSAGE_BYTES:
                return f"{path} is larger than a message may be"
        except OSError as fault:
            why = "it is a link" if fault.errno == errno.ELOOP else fault.strerror or str(fault)
            return f"{path} cannot be read: {why}"
    return ""


def _listed(paths: Paths, name: str) -> Iterator[bytes]:
    for folder in (paths.new, paths.cur):
        with suppress(OSError):
            yield read_regular(folder / name, MAX_MESSAGE_BYTES)


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(os.listdir(folder))
    return []


def _is(data: bytes, name: str, digest: str) -> bool:
    if not digest or bytes_digest(data) == digest:
        return True
    parsed = parse_message(data, name)
    if isinstance(parsed, Malformed):
        return False
    # An earlier version wrote down the digest of the text alone.
    text = text_digest(parsed.envelope.sender, parsed.subject, parsed.body)
    return digest in (content_digest(parsed), text)
