"""Writes docs/pictures/demo.svg: a recording of the real demo in a real terminal; `python tools/picture.py`.

Lines appear when they did; with reduced motion, and wherever pictures stand still, all are there from the beginning.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from rich.style import Style
from rich.text import Text

TARGET = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "demo.svg"
COLUMNS, ROWS = 120, 60
SECONDS = 60
CELL, LINE, MARGIN, SIZE = 8.4, 19, 20, 14
"""Pixels: a character's width, a line's height, around the text, the font."""
INKS = {1: "#f0706a", 2: "#7ec96b", 3: "#e6c35c", 6: "#56c8d8"}
PLAIN, FAINT, STRONG, PAPER = "#d6dae0", "#7d8794", "#ffffff", "#14171c"
SCRATCH = re.compile(r"/\S*agent-mailer-demo-\w+")
END = "That took"
"""The recording ends with this line: what follows is advice."""

Moment = tuple[float, str]
"""Seconds since the beginning, and a line with its colours as it was printed."""


def record(*words: str) -> list[Moment]:
    """The lines of a command on a terminal of its own. Raises RuntimeError where it fails or takes too long."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        child = subprocess.Popen(words, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True)
        os.close(its)
        try:
            lines = list(_lines(ours))
        finally:
            child.terminate()
            os.close(ours)
        status = child.wait(SECONDS)
    if status:
        raise RuntimeError(f"{' '.join(words)} ended with {status}")
    return lines


def _lines(terminal: int) -> Iterator[Moment]:
    began = time.monotonic()
    rest = b""
    while True:
        left = SECONDS - (time.monotonic() - began)
        if left <= 0 or not select.select([terminal], [], [], left)[0]:
            raise RuntimeError(f"the recording took more than {SECONDS} s")
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other side has closed it
            data = b""
        if not data:
            break
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield time.monotonic() - began, line.decode().rstrip("\r")
    if rest:
        yield time.monotonic() - began, rest.decode()


def shown(lines: Sequence[Moment]) -> list[Moment]:
    """What the picture has of the demo: up to its sum, in a folder whose name says nothing of this machine."""
    kept = []
    for moment, line in lines:
        kept.append((moment, SCRATCH.sub("~/demo", line)))
        if END in line:
            break
    return kept


def picture(command: str, lines: Sequence[Moment]) -> str:
    """An SVG of `command` and its lines, each at its moment."""
    rows = [(0.0, f"\x1b[2m$\x1b[0m \x1b[1m{command}\x1b[0m"), *lines]
    width = round(max(len(Text.from_ansi(line).plain) for _, line in rows) * CELL + 2 * MARGIN)
    height = len(rows) * LINE + 2 * MARGIN
    texts = "\n".join(
        f'<text class="line" style="animation-delay:{moment:.2f}s" x="{MARGIN}" y="{MARGIN + LINE * (row + 0.75):.1f}">'
        f"{''.join(_spans(line))}</text>"
        for row, (moment, line) in enumerate(rows)
        if line.strip()
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>A terminal: {escape(command)}. Two agents do one task by mail and answer.</title>
<style>
text {{ font: {SIZE}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: {PLAIN}; }}
@media (prefers-reduced-motion: no-preference) {{ .line {{ animation: come 0.01s backwards; }} }}
@keyframes come {{ from {{ visibility: hidden; }} }}
</style>
<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>
{texts}
</svg>
"""


def _spans(line: str) -> Iterator[str]:
    text = Text.from_ansi(line)
    for span in text.divide(sorted({edge for part in text.spans for edge in (part.start, part.end)})):
        style = Style.combine([Style(), *(part.style for part in span.spans if isinstance(part.style, Style))])
        ink = INKS.get(
            style.color.number or 0 if style.color else 0, FAINT if style.dim else STRONG if style.bold else ""
        )
        fill = f' fill="{ink}"' if ink else ""
        yield f'<tspan xml:space="preserve"{fill}>{escape(span.plain)}</tspan>'


def main() -> None:
    TARGET.parent.mkdir(exist_ok=True)
    program = Path(sys.executable).parent / "agent-mailer"
    TARGET.write_text(picture("agent-mailer demo", shown(record(str(program), "demo"))), "utf-8")


if __name__ == "__main__":
    main()
