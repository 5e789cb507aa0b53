"""An agent's numbers: read by Prometheus' own parser, whole, and by the names that the page promises."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.test_status_health import WELL

from agent_mailer.views.metrics import as_text, families
from agent_mailer.views.values.history import SpentView
from agent_mailer.views.values.status import (
    AllView,
    FaultView,
    HeldCountView,
    MailboxView,
    PauseView,
    Problem,
    ProblemView,
    QueuedView,
    StuckCountView,
    WatcherView,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
ODD = 'a "b"\\\nc'
IDLE = msgspec.structs.replace(
    WELL,
    workdir="/srv/coder",
    watcher=WatcherView(running=True, version="1.0"),
    mailbox=MailboxView("maildir", "coder"),
    today=SpentView(3, 12.5, 100, 20, 0.25),
)
STOPPED = msgspec.structs.replace(
    IDLE,
    workdir=ODD,
    agent="tester",
    healthy=False,
    problems=(
        ProblemView(Problem.STUCK, "1 message"),
        *(ProblemView(Problem.STATE_DAMAGED, f"{name} is damaged") for name in ("retries.json", "usage.json")),
    ),
    watcher=WatcherView(running=True, halted=True),
    mailbox=MailboxView("maildir", "tester", waiting=2, queue=(QueuedView("m", "t", "user", "normal", 61.0),)),
    pause=PauseView("limit", 0.0, None, ""),
    stuck=(StuckCountView("given-up", 1),),
    held=(HeldCountView("rounds", 4),),
)
REMOTE = msgspec.structs.replace(IDLE, workdir="/srv/far", mailbox=MailboxView("amp", "far", waiting=None))
LOST = FaultView("/srv/lost", (ProblemView(Problem.UNREADABLE, "gone"),))
EVERY = AllView(False, (STOPPED, IDLE, REMOTE, LOST))


def test_what_is_written_is_what_prometheus_reads() -> None:
    samples = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(as_text(EVERY, "2.0", 1000.5))
        for sample in family.samples
    ]
    read: dict[tuple[str, frozenset[tuple[str, str]]], float] = dict(samples)
    assert len(samples) == len(read), "of a file that says one sample twice a collector takes nothing"

    def of(name: str, workdir: str, **labels: str) -> float | None:
        who = {"/srv/coder": "coder", "/srv/far": "coder", "/srv/lost": ""}.get(workdir, "tester")
        return read.get((f"agent_mailer_{name}", frozenset({**labels, "agent": who, "workdir": workdir}.items())))

    odd = next(dict(labels)["workdir"] for _, labels in read if ("agent", "tester") in labels)
    assert "\n" not in odd
    assert odd.startswith('a "b"\\')
    assert read["agent_mailer_exported_timestamp_seconds", frozenset({("version", "2.0")})] == 1000.5
    assert [of("healthy", name) for name in ("/srv/coder", odd, "/srv/lost")] == [1, 0, 0]
    assert (of("problem", odd, code="stuck"), of("problem", "/srv/lost", code="unreadable")) == (1, 1)
    assert of("problem", odd, code="state_damaged") == 1
    assert [of("watcher_up", name) for name in ("/srv/coder", odd, "/srv/lost")] == [1, 0, None]
    assert [of("messages_waiting", name) for name in ("/srv/coder", odd, "/srv/far")] == [0, 2, None]
    assert [of("oldest_waiting_seconds", name) for name in ("/srv/coder", odd, "/srv/far")] == [0, 61, None]
    assert (of("paused", "/srv/coder", reason=""), of("paused", odd, reason="limit")) == (0, 1)
    assert (of("messages_stuck", odd, reason="given-up"), of("messages_held", odd, guard="rounds")) == (1, 4)
    assert (of("turns_total", "/srv/coder"), of("tokens_total", "/srv/coder", kind="output")) == (3, 20)
    assert of("cost_dollars_total", "/srv/coder") == 0.25


def test_the_page_names_each_number_and_no_other() -> None:
    named = dict(re.findall(r"^\| `agent_mailer_(\w+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE))
    assert named == {family.name: family.kind for family in families(EVERY, "2.0", 0.0)}
