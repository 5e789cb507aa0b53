"""The picture in the README is a recording of the demo as it is today."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from tests.sizes import LONG
from tools.picture import COLUMNS, TARGET, picture, record, shown


def words(svg: str) -> Counter[str]:
    """The lines of a picture without what differs each time: moments, processes, dates."""
    texts = ElementTree.fromstring(svg).iterfind("{http://www.w3.org/2000/svg}text")
    return Counter(re.sub(r"[\d.]+", "0", "".join(text.itertext())).strip() for text in texts)


@LONG
def test_the_picture_shows_what_the_demo_prints() -> None:
    lines = shown(record(str(Path(sys.executable).parent / "agent-mailer"), "demo"))
    moments = [moment for moment, _ in lines]
    assert moments == sorted(moments)
    made = picture("agent-mailer demo", lines)
    assert words(made) == words(TARGET.read_text()), "stale: python tools/picture.py"
    assert max(len(line) for line in words(made)) <= COLUMNS
