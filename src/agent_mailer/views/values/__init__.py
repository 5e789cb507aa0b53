"""The values that there are to see: what `--json` prints, and what a screen is drawn from.

Moments are seconds since the epoch, where they are not text (ISO 8601). Text that came from outside is as it came:
whoever shows it makes it printable. A field's name is its name in JSON, but for `sender`, which is `from` there.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Part(msgspec.Struct, frozen=True):
    """What a view is made of. `AGES` names the fields that only tell how much time has passed."""

    AGES: ClassVar[tuple[str, ...]] = ()


class View(Part, frozen=True):
    """Something to see, known by its type and key. `ABOUT` names the field that is its key. Neither is in the JSON."""

    ABOUT: ClassVar[str]

    @property
    def key(self) -> str:
        return str(getattr(self, self.ABOUT))

    @property
    def version(self) -> str:
        """A digest of all that is shown but what only ages, here and in every part: it changes when that does."""
        import hashlib  # most that is looked at is never compared

        return hashlib.sha256(ascii(_lasting(self)).encode()).hexdigest()[:16]


def _lasting(value: object) -> object:
    if isinstance(value, Part):
        return [_lasting(getattr(value, name)) for name in value.__struct_fields__ if name not in value.AGES]
    return [_lasting(one) for one in value] if isinstance(value, tuple) else value
