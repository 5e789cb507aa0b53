"""What the look around a shell command costs, where others have files reserved, and where nobody has."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from agent_mailer.disk import Disk
from agent_mailer.reservations.hook import argv_for
from agent_mailer.reservations.port import Owner, Reservation
from agent_mailer.reservations.turn import put_held
from benchmarks.measuring import row

ROUNDS = 20
FILES = 1000


def looks() -> None:
    """One end of a look each: a command has two."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        turn, project = Path(folder) / "turn", Path(folder) / "project"
        (turn / "outbox").mkdir(parents=True)
        for number in range(FILES):
            place = project / "src" / str(number // 100)
            place.mkdir(parents=True, exist_ok=True)
            (place / str(number)).touch()
        shell, python = _cpu(["/bin/sh", "-c", "true"]), _cpu([sys.executable, "-I", "-c", "pass"])
        nobody = _cpu(argv_for(turn))
        put_held(Disk(), turn, project, [], own=True)
        own = _cpu(argv_for(turn))
        put_held(Disk(), turn, project, [Reservation(Owner("x", "t"), str(project), "src/**", time.time() + 600)])
        others = _cpu(argv_for(turn))
    times = nobody / shell
    times, alone, walk = nobody / shell, own / python, others / own
    row("around a command, nobody holds files: CPU over `sh`", f"{times:.2f} x", "at most 2 x", met=times <= 2)
    row("it alone holds some: CPU over `python -c pass`", f"{alone:.1f} x", "at most 8 x", met=alone <= 8)
    row(f"others hold {FILES} files: CPU over no walk", f"{walk:.2f} x", "at most 1.5 x", met=walk <= 1.5)


def _cpu(argv: Sequence[str]) -> float:
    """Seconds of CPU of one call."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for number in range(ROUNDS):
        given = {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_use_id": str(number)}
        subprocess.run(argv, input=json.dumps(given).encode(), stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / ROUNDS
