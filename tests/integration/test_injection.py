"""Whatever a sender writes into a field: what runs, where files lie and what is shown is as for any other mail."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.broker_desk import running_broker
from tests.desk import Desk
from tests.integration.test_amp_watch import AmpDesk
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
    return telling(Desk(tmp_path))


def telling(desk: Desk) -> Desk:
    """Its agent keeps what it got."""
    kept = desk.base / "kept"
    kept.mkdir()
    # More messages than a person's hour has turns.
    desk.configure(command=["/bin/sh", "-c", AGENT.format(kept=kept)], guards={"turns_per_hour": 0})
    return desk


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
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
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
    require_as_in(clean, desk, number // 2, every)


def require_as_in(clean: dict[str, set[str]], desk: Desk, turns: int, every: bool) -> None:
    """Nothing of the mail since shows in what more than `turns` turns got, in names, in the log and on screens."""
    found = seen(desk)
    assert (desk.base / "kept" / "prompt").read_text().count("Message: ") > turns, "turns ran"
    for name in ("prompt", "argv", "env", "paths"):
        others = {
            line
            for line in found[name] - clean[name]
            if not re.fullmatch(r".*(\*|corrupt|stuck|unsent|retries).*", line)
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
    assert not list(desk.base.rglob(MARK)), "nothing was run"


AT_A_BROKER = (
    ("subject", "body", "labels", "attachments"),
    ("thread_id",),
    ("from_agent", "action"),
    ("kind", "priority", "automatic", "parent_id", "to_agent", "created_at"),
    ("id",),
)


class Poisoning:
    """ASGI middleware before a broker that is in bad hands: it says of messages what a test wants."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.says: dict[str, dict[str, object]] = {}
        """By the ids of messages."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/messages/") or scope["path"].endswith("/stream"):
            await self._app(scope, receive, send)
            return
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self._app(scope, receive, keep)
        start, *parts = answer
        body = self._poisoned(b"".join(part.get("body", b"") for part in parts))
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})

    def _poisoned(self, body: bytes) -> bytes:
        def visit(found: Any) -> Any:
            if isinstance(found, list):
                return [visit(one) for one in found]
            if isinstance(found, dict):
                return {name: visit(one) for name, one in found.items()} | self.says.get(str(found.get("id")), {})
            return found

        try:
            return json.dumps(visit(json.loads(body))).encode()
        except ValueError:
            return body


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[tuple[AmpDesk, Poisoning]]:
    poisoning: list[Poisoning] = []

    def behind(app: ASGIApp) -> ASGIApp:
        poisoning.append(Poisoning(app))
        return poisoning[0]

    for name in ("broker", "desk"):
        (tmp_path / name).mkdir()
    with running_broker(tmp_path / "broker", behind=behind) as broker:
        desk = AmpDesk(tmp_path / "desk", broker, broker.person("someone"))
        telling(desk)
        yield desk, poisoning[0]


@pytest.mark.parametrize("every", sizes(False, True))
def test_nor_does_anything_of_one_that_a_broker_in_bad_hands_shows(bad: tuple[AmpDesk, Poisoning], every: bool) -> None:
    desk, broker = bad
    desk.mail()
    desk.once()
    clean = seen(desk)
    number = 0
    for payload in [PAYLOADS[name] for name in (PAYLOADS if every else QUICK[::2])]:
        for some in AT_A_BROKER if every else AT_A_BROKER[:2]:
            number += 1
            broker.says[desk.mail()["id"]] = {field: at_a_broker(payload, field, number) for field in some}
    desk.once()
    require_as_in(clean, desk, number // 3, every)


def at_a_broker(payload: str, field: str, number: int) -> object:
    match field:
        case "labels":
            return [payload]
        case "attachments":
            return [{"filename": payload, "media_type": payload, "size": 1, "url": payload}]
        case "id" | "thread_id":
            return f"{payload}{number}"
        case _:
            return payload
