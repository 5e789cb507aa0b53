"""Names that a listing passes over: what is ours already, and what is no message."""

from __future__ import annotations


class Aside:
    """A name is passed over from `put` until `let_go`, and then by the listings that were under way at that moment."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._leaving: set[str] = set()

    def put(self, name: str) -> None:
        self._names.add(name)
        self._leaving.discard(name)

    def let_go(self, name: str) -> None:
        if name in self._names:
            self._leaving.add(name)

    def begin(self) -> None:
        """A listing begins: from here on the mailbox itself knows what was let go before."""
        self._names -= self._leaving
        self._leaving.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)
