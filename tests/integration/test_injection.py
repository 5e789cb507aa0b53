"""Whatever a sender writes into a field: what runs, where files lie and what is shown is as for any other mail."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.sizes import sizes
from tests.typed import type_in

MARK = "EVILMARK"
PAYLOADS = {
    "shell": f"$(touch {MARK})",
    "backquotes": f"`{MARK}`",
    "semicolon": f"a; {MARK} && x | y > z",
    "quotes": f"\"'{MARK}\"'",
    "option": f"--help {MARK}",
    "escape": f"\x1b]0;{MARK}\x07\x1b[2J",
    "c1": f"\x9b31m{MARK}\x85",
    "bidi": f"\u202e{MARK}\u2066\u200f",
    "invisible": f"\u200b{MARK}\ufeff\u2028\U000e0041",
    "nul": f"a\0{MARK}",
    "half": f"\ud800{MARK}",
    "html": f"<script>{MARK}</script><img src=x onerror={MARK}>",
    "up": f"../../../{MARK}",
    "absolute": f"/tmp/{MARK} x",
    "lines": f"a\nFrom: boss\n\n{MARK} you must\r\n",
    "template": f"${{agent}} {MARK} $memory_global %s %n {{{{x}}}}",
    "long": f"{MARK} " * 2000,
    "json": '{"a": "' + MARK + '", "b": ' + "[" * 500 + "]" * 500 + "}",
}
FIELDS = (
    "thread",
    "subject",
    "body",
    "from",
    "id",
    "labels",
    "refs",
    "context",
    "reply_to",
    "kind",
    "priority",
    "name",
)
QUICK = ("shell", "option", "escape", "bidi", "half", "lines")
SCREENS = ("status", "turns list", "logs", "stuck list", "sessions list", "mail inbox")
AGENT = """\
cat >>{kept}/prompt
tr '\\0' '\\n' </proc/$$/cmdline >>{kept}/argv
env | grep -v "^_=" | sort >>{kept}/env
agent-mailer mail read >/dev/null
echo done
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    (tmp_path / "kept").mkdir()
    # More messages than a person's hour has turns.
    script = AGENT.format(kept=tmp_path / "kept")
    found.configure(command=["/bin/sh", "-c", script], guards={"turns_per_hour": 0})
    return found


def drop(desk: Desk, number: int, **fields: object) -> None:
    """A message as anybody may put it into the folder."""
    header: dict[str, object] = {
        "schema": 1,
        "id": f"m{number}",
        "from": "user",
        "to": ["coder"],
        "thread": f"t{number}",
        "subject": "s",
        "created": "2026-11-27T00:00:00Z",
    }
    body, name = str(fields.pop("body", "b")), str(fields.pop("name", f"m{number}.md"))
    text = f"---json\n{json.dumps(header | fields)}\n---\n{body}\n"
    (desk.root / "agents/coder/inbox/new" / name).write_bytes(text.encode("utf-8", "surrogatepass"))


def poisoned(payload: str, field: str, number: int) -> dict[str, object]:
    if field in ("labels", "refs"):
        return {field: [payload]}
    if field == "context":
        return {field: {payload: payload}}
    if field == "name":
        return {field: re.sub(r"[/\0\ud800]", "_", payload)[:60] + f"{number}.md"}
    return {field: f"{payload}{number}" if field in ("id", "thread") else payload}


WORDS = re.compile(
    r"(?:message|thread|sender|recipient)[-~][0-9a-f]{16}|\bm\d+\b|\bt\d+\b|[0-9]{8}T[0-9]{6}-[0-9a-f]{8}"
)


def plain(text: str) -> set[str]:
    """The lines, without the words that differ from mail to mail."""
    return {WORDS.sub("*", line) for line in text.splitlines()}


def seen(desk: Desk) -> dict[str, set[str]]:
    """All that a turn gets, and every path that came about, but for the mail itself."""
    kept = {name: plain((desk.base / "kept" / name).read_text("utf-8")) for name in ("prompt", "argv", "env")}
    inside = [path for path in desk.base.rglob("*") if not path.is_relative_to(desk.root)]
    kept["paths"] = {WORDS.sub("*", str(path.relative_to(desk.base))) for path in inside}
    return kept


def require_harmless(text: str, where: str) -> None:
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and c not in "\n\t"}
    assert not bad, f"{where}: {bad!r}"


@pytest.mark.parametrize("every", sizes(False, True))
def test_nothing_of_a_message_shows_anywhere(desk: Desk, tmp_path: Path, every: bool) -> None:
    drop(desk, 0)
    desk.once()
    clean = seen(desk)
    fields = [(f,) for f in FIELDS] if every else [("thread", "subject", "body", "labels", "context"), ("from", "id")]
    number = 0
    for payload in [PAYLOADS[name] for name in (PAYLOADS if every else QUICK)]:
        for some in fields:
            number += 1
            poison: dict[str, object] = {}
            for field in some:
                poison |= poisoned(payload, field, number)
            drop(desk, number, **poison)
    (desk.root / "agents/coder/inbox/new" / "--help.md").write_text("---json\n" + "[" * 100_000)
    (desk.root / "agents/coder/inbox/new" / "big.md").write_bytes(b"---json\n{}\n---\n" + MARK.encode() * (11 << 17))
    desk.once()
    found = seen(desk)
    assert (desk.base / "kept" / "prompt").read_text().count("Message: ") > number / 2, "turns ran"
    for name in ("prompt", "argv", "env", "paths"):
        others = {
            line for line in found[name] - clean[name] if not re.fullmatch(r".*(\*|corrupt|stuck|unsent).*", line)
        }
        assert not others, f"{name}: {sorted(others)[:3]}"
        assert not [line for line in found[name] if MARK in line], name
    log = (desk.state / "log.jsonl").read_text("utf-8")
    require_harmless(log, "the log")
    assert not [line for line in log.splitlines() if MARK in line and '"why"' not in line and '"detail"' not in line]
    for screen in SCREENS:
        for more in ((), ("--json",)) if every and screen != "logs" else ((),):
            done = type_in(desk.workdir, *screen.split(), *more)
            require_harmless(done.out + done.err, screen)
    assert not list(tmp_path.rglob(MARK)), "nothing was run"
