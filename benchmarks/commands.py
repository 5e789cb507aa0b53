"""What commands cost that a person or a script types again and again."""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.desk import CLI, Desk

from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.mailbox.port import Action, Draft, Refused
from benchmarks.measuring import alternating, quiet, row

ROUNDS = 15
WAITING = 10_000

# What `amq list` does, as little as Python does it with: each file's header is read and parsed once, one line is told.
_LISTED = """\
import json, os, sys
for name in sorted(os.listdir(sys.argv[1])):
    with open(os.path.join(sys.argv[1], name), encoding="utf-8") as stream:
        head = json.loads(stream.read(16384)[8:].partition("\\n---\\n")[0])
    print(head["created"], head["from"], head["id"], head["subject"])
"""


def commands() -> None:
    """CPU of `send` and of read commands beside that of the import of their framework."""
    python = [sys.executable, "-c", "import typer"]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        d = Desk(Path(folder))
        # Whoever sends is told where nobody watches, which is looked for among all workdirs that the user has.
        os.environ["XDG_STATE_HOME"] = str(d.base / "state")
        of = ["--workdir", str(d.workdir)]
        d.send()
        d.once()
        to_send = ["send", "--to", "coder", "--body", "please", *of]
        quiet([*CLI, *to_send])
        for name, words, wanted in (
            ("send", to_send, 1.5),
            ("mail inbox", ["mail", "inbox", "--as", "coder", *of], 1.6),
            ("mail contacts", ["mail", "contacts", *of], 1.4),
            ("turns list", ["turns", "list", *of], 1.4),
        ):
            mine, least = _cpu_of(lambda words=words: quiet([*CLI, *words]), lambda: quiet(python))
            ratio = mine / least
            text = f"{ratio:.2f} x import typer ({mine * 1e3:.0f} / {least * 1e3:.0f} ms)"
            row(f"CPU of {name}", text, f"{wanted:g} x", met=ratio <= wanted)


def _cpu_of(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Medians of the seconds of CPU that children took, done in turn."""
    pairs = [(_children_of(first), _children_of(second)) for _ in range(ROUNDS)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def _children_of(work: Callable[[], object]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def inbox() -> None:
    """All of a long inbox, beside `amq list` where that is installed, else beside a loop that does as much."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        d = Desk(Path(folder))
        new = Paths(d.root, "user").new
        _fill(MaildirMailbox(d.disk, d.root, "coder"), new)
        mine = [*CLI, "mail", "inbox", "--limit", "0", "--workdir", str(d.workdir)]
        amq = shutil.which("amq")
        least: Sequence[str] = [sys.executable, "-c", _LISTED, str(new)]
        if amq is not None:
            least = [amq, "list", "--root", str(d.root), "--me", "user"]
        ours, theirs = alternating(5, lambda: quiet(mine), lambda: quiet(least))
        ratio = ours / theirs
        name = "amq list" if amq is not None else "a loop that reads each header once"
        text = f"{ratio:.2f} x ({ours * 1e3:.0f} / {theirs * 1e3:.0f} ms)"
        row(f"mail inbox of {WAITING:,} over {name}", text, "3 x", met=ratio <= 3)


def _fill(mailbox: MaildirMailbox, new: Path) -> None:
    """Written past the mailbox, which would make each durable."""
    for number in range(WAITING):
        draft = Draft(
            f"k{number}", Action.SEND, 1_700_000_000.0 + number, to=("user",), subject=f"state {number}", body="green"
        )
        items = mailbox.compose(draft, None, f"bench-{number % 500}")
        assert not isinstance(items, Refused), items
        (new / f"{items[0].id}.md").write_text(items[0].payload)
