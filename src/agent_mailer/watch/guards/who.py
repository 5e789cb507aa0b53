"""Whose mail is worked on: `allow_from`, `deny_from`, and who is a person. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec

from agent_mailer.mailbox.port import Envelope, Kind
from agent_mailer.names import is_hook, printable

KIND = "kind:"
_WILD = frozenset("*?[")
_NOT_ONE = frozenset("\"',")
"""Who writes these means several patterns, or a list as a program writes it."""


class WhoPolicy(msgspec.Struct, frozen=True):
    """Patterns as they were configured; `address` is the agent's own.

    A pattern is an address, a name (of a neighbour, where addresses have domains), `@domain`, a glob of these, or
    `kind:KIND`. Cases do not matter.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    address: str = ""
    agents: frozenset[str] = frozenset()
    """Addresses of agents, which are never people."""
    vouched: frozenset[str] = frozenset()
    """People of whom a broker says that they are it."""

    def is_person(self, address: str) -> bool:
        """The agent itself never is one, nor is a hook."""
        if address in ("", self.address) or address in self.agents or is_hook(address):
            return False
        return any(_fits(one, address, self) for one in self.people)

    def may_answer(self, sender: str, *, vouched: bool, hidden: bool) -> bool:
        """Whether his answers by mail to what the agent asks count. `vouched`: the mailbox says who a sender is;
        `hidden`: the agent cannot write into it.
        """
        return sender in self.vouched if vouched else hidden and self.is_person(sender)

    def may_answer_own(self, sender: str, *, vouched: bool) -> bool:
        """The same to what is asked of a sender about his own message: no agent that is known here, and no hook."""
        own = sender in ("", self.address) or sender in self.agents
        return vouched and not own and not is_hook(sender)

    def why_held(self, envelope: Envelope) -> str:
        """Why this mail is not worked on; empty where it is.

        A person is denied by his own name only, by no pattern, and needs no entry in `allow_from`: somebody has to be
        able to answer.
        """
        person = self.is_person(envelope.sender)
        for pattern in self.deny:
            if self._matches(pattern, envelope) and not (person and is_pattern(pattern)):
                return f"deny_from has {printable(pattern, 60)}"
        # Its own mail; who is called so in another session or project is somebody else.
        if not self.allow or person or names_of(envelope) == (self.address,):
            return ""
        if any(self._matches(pattern, envelope, every=True) for pattern in self.allow):
            return ""
        if any(self._matches(pattern, envelope) for pattern in self.allow):
            return "allow_from has its sender, but not the place where its answers are to go"
        return "allow_from does not have its sender"

    def _matches(self, pattern: str, envelope: Envelope, *, every: bool = False) -> bool:
        """`every`: also where the mail says that it came from another project or session, both names must fit."""
        if pattern.casefold().startswith(KIND):
            return envelope.kind is not None and envelope.kind.value == pattern[len(KIND) :].casefold()
        fits = [_fits(pattern, name, self) for name in names_of(envelope)]
        return all(fits) if every else any(fits)


def names_of(envelope: Envelope) -> tuple[str, ...]:
    """Its sender. `reply_to` only where it names another place: that is where the sender really is."""
    elsewhere = envelope.reply_to if ":" in envelope.reply_to or "@" in envelope.reply_to else ""
    return (envelope.sender, elsewhere) if elsewhere else (envelope.sender,)


def _fits(pattern: str, address: str, who: WhoPolicy) -> bool:
    wanted, found = pattern.casefold(), address.casefold()
    if wanted.startswith("@"):
        wanted = f"*{wanted}"
    if fnmatchcase(found, wanted):
        return True
    name, at, domain = found.partition("@")
    return bool(at) and domain == who.address.casefold().partition("@")[2] and name == wanted


def is_pattern(text: str) -> bool:
    """Whether it stands for more than one sender."""
    return bool(_WILD & set(text)) or text.startswith("@") or text.casefold().startswith(KIND)


def bad_pattern(patterns: Iterable[str]) -> str:
    """What is wrong with one of them; empty where they are all sound."""
    for pattern in patterns:
        listed = pattern[:1] == "[" and pattern.find("]") == len(pattern) - 1
        if not pattern or listed or not pattern.isprintable() or any(c.isspace() or c in _NOT_ONE for c in pattern):
            return f"{pattern!r} is no address: nothing fits it"
        if pattern.casefold().startswith(KIND) and pattern[len(KIND) :].casefold() not in set(Kind):
            return f"{pattern!r} names no kind of mail: kind: and one of {', '.join(Kind)}"
    return ""
