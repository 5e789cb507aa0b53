"""Charts as SVG, made here: bars, with their numbers in a table beside them. Colours are the style sheet's."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from markupsafe import Markup

WIDE, HIGH = 720, 200
LEFT, BELOW, ABOVE = 40, 24, 10


class Bar(msgspec.Struct, frozen=True):
    """`low` stands at the foot of it, `high` on top of that."""

    name: str
    low: int
    high: int = 0

    @property
    def whole(self) -> int:
        return self.low + self.high


def bars(title: str, shown: Sequence[Bar]) -> Markup:
    """A bar for each, from the left; `title` says what it shows to whoever does not see it."""
    most = _round_up(max((bar.whole for bar in shown), default=0))
    room, ground = HIGH - ABOVE - BELOW, HIGH - BELOW
    step = (WIDE - LEFT) / max(1, len(shown))
    thick = min(36.0, step * 0.7)
    parts: list[Markup] = []
    for part in range(3):
        number, y = most * part // 2, ground - room * part / 2
        parts.append(Markup('<line x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDE, _n(y), _n(y)))
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 6, _n(y + 4), number))
    for place, bar in enumerate(shown):
        middle = LEFT + step * (place + 0.5)
        y = float(ground)
        for kind, value in (("bar", bar.low), ("bar2", bar.high)):
            tall = room * value / most
            y -= tall
            if value:
                rect = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="2"/>')
                parts.append(rect.format(kind, _n(middle - thick / 2), _n(y), _n(thick), _n(tall)))
        if len(shown) <= 16 or place % 2 == 0:
            label = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>')
            parts.append(label.format(_n(middle), HIGH - 7, bar.name))
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDE, HIGH, title)
    return head + Markup("").join(parts) + Markup("</svg>")


def _round_up(number: int) -> int:
    """The next even number that begins with one of a few figures."""
    size = 1
    while size * 10 <= number:
        size *= 10
    return next(size * step for step in (2, 4, 6, 8, 10) if size * step >= number)


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
