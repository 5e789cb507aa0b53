"""Ways out of our own root: to another session of it, to a project that .amqrc names as a peer, to a new sender.

What lies outside counts only where it belongs to us or root and nobody else can write it: a peer also with every
folder above it. Looking makes and writes nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent_mailer.errors import ConfigFault
from agent_mailer.mailbox.maildir.digests import unavailable
from agent_mailer.mailbox.maildir.format import PROJECT_MARK
from agent_mailer.mailbox.maildir.layout import (
    AMQRC,
    FOLDER,
    MAX_HANDLE,
    REQUIRED,
    Amqrc,
    is_folder,
    is_handle,
    known,
    missing_folders,
    read_amqrc,
    rosters,
)
from agent_mailer.mailbox.maildir.ownership import why_not_ours, why_not_ours_all_the_way
from agent_mailer.mailbox.port import Envelope, NoWay, Refused, Route
from agent_mailer.names import printable

_SESSION_MARK: Final = "@"
_MAX_NAMED: Final = 10
_WITHIN_US: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN))


class Address(msgspec.Struct, frozen=True):
    """A handle, and where it is: empty `session` and `project` are our own. A project's base root has no session."""

    handle: str
    session: str = ""
    project: str = ""


def parse_address(text: str) -> Address | None:
    """`[project:]handle[@session]`, or as amq writes it `handle@project:[session]`; None for what names nobody."""
    before, at, after = text.rpartition(_SESSION_MARK)
    if at and PROJECT_MARK in after:
        handle, (project, _, session) = before, after.rpartition(PROJECT_MARK)
    else:
        project, _, handle = (before if at else after).rpartition(PROJECT_MARK)
        session = after if at else ""
        if at and not session:
            return None
    if not is_handle(handle) or len(handle) > MAX_HANDLE or (session and not _is_session(session)):
        return None
    return Address(handle, session, project)


def session_of(root: Path) -> str:
    """The name of the session that `root` is, a folder right below a base root; empty where it is none."""
    return root.name if base_of(root) is not None else ""


def base_of(root: Path) -> Path | None:
    """The base root of a session, by amq's rules; None where `root` is no session of any."""
    base = root.parent
    if not _is_session(root.name):
        return None
    if base.name == FOLDER or rosters(base):
        return base
    try:
        owner = _amqrc_above(root)
    except ConfigFault:
        return None
    return base if owner is not None and owner.root == base else None


def mail_of_the_tree(root: Path, workdir: Path) -> Sequence[Path]:
    """The folders that hold all mail of a root and its sessions, and nothing else of a project."""
    from agent_mailer.git_tree import is_top

    if is_top(root) and workdir.is_relative_to(root):
        return root / "agents", root / "meta"
    return (base_of(root) or root,)


def siblings(root: Path) -> Iterator[Path]:
    """The other roots of the same base, the base itself among them, that belong to us."""
    base = base_of(root) or root
    try:
        names = sorted(os.listdir(base))
    except OSError:
        return
    for place in (base, *(base / name for name in names if _is_session(name))):
        if place != root and is_folder(place / "agents") and not why_not_ours(place):
            yield place


def places(root: Path) -> Iterator[Path]:
    """All roots that mail may go to from `root`, itself first: its base's, and those of peers. Such as are not ours are
    left out.
    """
    yield root
    yield from siblings(root)
    with suppress(ConfigFault, OSError):
        owner = _amqrc_above(root)
        if owner is None or why_not_ours_all_the_way(owner.path.parent):
            return
        for peer in owner.peers.values():
            if is_folder(peer) and not why_not_ours_all_the_way(peer):
                yield peer
                yield from siblings(peer)


def way_back(root: Path, me: str, envelope: Envelope) -> Route | NoWay | None:
    """How an answer to the message gets to its sender. Raises MailboxUnavailable as `find` does."""
    if not envelope.sender:
        return None
    return find(root, me, envelope.reply_to or envelope.sender, envelope.sender)


def find(root: Path, me: str, text: str, sender: str = "") -> Route | NoWay | None:
    """The way to an address; None where our own root delivers to it. Only `sender` is given a mailbox, in our own tree.

    Raises MailboxUnavailable where the system does not let us look just now.
    """
    address = parse_address(text)
    if address is None and is_handle(text):
        return NoWay(f"no mailbox can be called {printable(text, 100)!r}: it has more than {MAX_HANDLE} characters")
    if address is None:
        return NoWay(
            f"{printable(text, 100)!r} names nobody: it is no handle, handle@session or project:handle@session"
        )
    try:
        if address.project:
            return _to_peer(root, me, text, address)
        if address.session and address.session != root.name:
            return _to_session(root, me, text, address, sender)
        return _here(root, text, address, sender)
    except ConfigFault as fault:
        if isinstance(why := fault.__cause__, OSError) and why.errno in _WITHIN_US:
            raise unavailable(why.filename, why) from why
        return NoWay(fault.message)
    except OSError as fault:
        if fault.errno in _WITHIN_US:
            raise unavailable(fault.filename, fault) from fault
        # Another project's dead disk is no trouble of ours: this mail waits, its neighbours do not.
        return NoWay(f"{fault.filename}: {fault.strerror}")


def find_typed(root: Path, me: str, text: str) -> Route | NoWay | None:
    """The same for what a person typed: `handle@name` is a session, and where there is none a project, as in amq.

    In a project the session is then that of our own name, if we are in one.
    """
    found, address = find(root, me, text), parse_address(text)
    if not isinstance(found, NoWay) or address is None or address.project or not address.session:
        return found
    session = session_of(root)
    whole = f"{address.session}{PROJECT_MARK}{address.handle}" + (f"{_SESSION_MARK}{session}" if session else "")
    other = find(root, me, whole)
    return found if isinstance(other, NoWay) else other


def check(root: Path, route: Route) -> Refused | None:
    """Whether a way that was found is still that one. Raises MailboxUnavailable where its end is not there just now."""
    place, handle = Path(route.place), route.recipient
    try:
        found = os.lstat(place)
        if place == root:
            return None
        if (found.st_dev, found.st_ino) != (route.device, route.inode):
            return Refused(f"{place} is another folder than it was when the message was taken")
        why = _why_no_mailbox_of_ours(place, handle)
        if not why and not route.makes and missing_folders(place, handle):
            why = f"{place} has no mailbox for {handle!r}"
    except OSError as fault:
        raise unavailable(place, fault) from fault
    return Refused(why) if why else None


def _here(root: Path, text: str, address: Address, sender: str) -> Route | NoWay | None:
    handle = address.handle
    home = root / "agents" / handle
    if os.path.lexists(home):
        odd = [path for leaf in REQUIRED if os.path.lexists(path := home / leaf) and not is_folder(path)]
        return NoWay(f"the mailbox of {handle} cannot be used: {odd[0]} is not a folder") if odd else None
    if handle == sender:
        found = os.lstat(root)
        return Route(text, str(root), found.st_dev, found.st_ino, handle, makes=True)
    return None if known(root, handle) else NoWay(f"{root} has no mailbox for {handle!r}")


def _to_session(root: Path, me: str, text: str, address: Address, sender: str) -> Route:
    base = base_of(root)
    place = (base or root) / address.session
    if not os.path.lexists(place):
        raise _no_way(f"there is no session {address.session!r} in {base or root}")
    _require(why_not_ours(base or root))
    back = f"{me}{_SESSION_MARK}{root.name}" if base is not None else ""
    return _route(text, place, address.handle, back, makes=address.handle == sender)


def _to_peer(root: Path, me: str, text: str, address: Address) -> Route:
    owner = _amqrc_above(root)
    if owner is None:
        raise _no_way(f"no {AMQRC} above {root} names the projects that mail may go to")
    session = root.name if root.parent == owner.root and _is_session(root.name) else ""
    if root != owner.root and not session:
        raise _no_way(f"{owner.path} is that of another root, {owner.root}")
    # The home's file says where mail is, not which project it is.
    folder = owner.path.parent
    project = owner.project or ("" if folder == _home() else folder.name)
    if not project:
        raise _no_way(f'{owner.path} names no "project" for an answer to come back to')
    _require(why_not_ours_all_the_way(folder))
    peer = owner.peers.get(address.project)
    if peer is None:
        named = sorted(owner.peers)
        more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
        listed = ", ".join(printable(name, 60) for name in named[:_MAX_NAMED]) or "none"
        raise _no_way(f"{owner.path} names no peer {printable(address.project, 60)!r}; it names {listed}{more}")
    _require(why_not_ours_all_the_way(peer))
    place = peer / address.session if address.session else peer
    back = f"{project}{PROJECT_MARK}{me}" + (f"{_SESSION_MARK}{session}" if session else "")
    return _route(text, place, address.handle, back, makes=False)


def _route(text: str, place: Path, handle: str, back: str, *, makes: bool) -> Route:
    _require(_why_no_mailbox_of_ours(place, handle))
    if not makes and missing_folders(place, handle):
        raise _no_way(f"{place} has no mailbox for {handle!r}")
    found = os.lstat(place)
    return Route(text, str(place), found.st_dev, found.st_ino, handle, back, makes)


def _amqrc_above(root: Path) -> Amqrc | None:
    """The nearest .amqrc from `root` upward, not beyond the top of its git tree, the home, or the file system.

    Raises ConfigFault for one that is not to be trusted.
    """
    from agent_mailer.git_tree import is_top  # most mailboxes are in a folder of their own

    # A root that is still to be made will lie on the file system of the nearest folder that is there.
    there = [folder for folder in (root, *root.parents) if os.path.lexists(folder)]
    device = os.lstat(there[0]).st_dev
    for folder in there:
        if os.lstat(folder).st_dev != device:
            return None
        if os.path.lexists(folder / AMQRC):
            return read_amqrc(folder / AMQRC)
        # A root may be a git tree itself, so that git leaves the mail alone.
        if folder == _home() or (is_top(folder) and not is_folder(folder / "agents")):
            return None
    return None


def _home() -> Path:
    return Path("~").expanduser()


def _is_session(name: str) -> bool:
    return is_handle(name) and len(name) <= MAX_HANDLE


def _why_no_mailbox_of_ours(place: Path, handle: str) -> str:
    """Why mail for `handle` must not go below `place`; empty where nothing speaks against it. Raises OSError."""
    if not os.path.lexists(place / "agents"):
        return why_not_ours(place) or f"{place} is no mailbox root: it has no agents folder"
    home = place / "agents" / handle
    wanted = [place, place / "agents", *(path for leaf in REQUIRED if os.path.lexists(path := home / leaf))]
    return next(filter(None, map(why_not_ours, wanted)), "")


def _require(why: str) -> None:
    if why:
        raise _no_way(why)


def _no_way(why: str) -> ConfigFault:
    return ConfigFault("no_way", why, f"name the peers in {AMQRC}, or ask its sender")
