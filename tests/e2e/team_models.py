"""Two model servers on the loopback that play the four roles of a team, as models would: by what they have been told.

Who they are they read in AGENT.md, what is to be done in the mail, so that a turn which runs again does the same again.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e import fake_openai
from tests.e2e.fake_anthropic import Answer, FakeAnthropic, Request, Text, Tool, usage_limit
from tests.e2e.fake_openai import FakeOpenAI, Shell, Step

SENT_BACK = 5
"""How often the reviewer sends the coder's work back."""

REPORT = "The greeting is there; it was run."
_PART = re.compile(r"## Your part: (\w+)")
_ROW = re.compile(r"(?m)^- (\w+): (\S+)")
_WORD = re.compile(r"\b(ROUND \d+|CHANGED \d+|RUN|RAN)\b")
_PROMPT = "You are running unattended as"


class Mail(NamedTuple):
    tool: str
    arguments: Mapping[str, object] = {}


class Run(NamedTuple):
    command: str


class Look(NamedTuple):
    path: Path


class End(NamedTuple):
    text: str


class Limit(NamedTuple):
    """Nothing is said before then."""

    until: float


Act = Mail | Run | Look | End | Limit


class Team(NamedTuple):
    """What AGENT.md says: who reads it, and the addresses of all by role."""

    role: str
    addresses: dict[str, str]

    @classmethod
    def told_in(cls, text: str) -> Team | None:
        part = _PART.search(text)
        return cls(part[1], dict(_ROW.findall(text[part.end() :]))) if part is not None else None


class Gate:
    """Where somebody is kept waiting, the first time."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()


class Cast:
    """What the roles do. `asked` counts who was asked for what; `hold` keeps one waiting, `limit` answers once that the
    account has nothing left for so many seconds.
    """

    def __init__(self, project: Path) -> None:
        self.project = project
        self.asked: Counter[tuple[str, str]] = Counter()
        self._gates: dict[tuple[str, str], Gate] = {}
        self._limits: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def hold(self, role: str, word: str) -> Gate:
        return self._gates.setdefault((role, word), Gate())

    def limit(self, role: str, word: str, seconds: float) -> None:
        self._limits[role, word] = seconds

    def release_all(self) -> None:
        for gate in self._gates.values():
            gate.reached.set()
            gate.go.set()

    def act(self, team: Team, heard: Sequence[str]) -> Act:
        """`heard`: what the tools of this turn have answered so far, oldest first."""
        if not heard:
            return Mail("read_message")
        found = _WORD.search(heard[0].partition("Subject: ")[2])
        word = found[1] if found is not None else "task"
        if len(heard) == 1:
            with self._lock:
                self.asked[team.role, word] += 1
                limit = self._limits.pop((team.role, word), None)
                gate = self._gates.get((team.role, word))
                kept = gate is not None and not gate.reached.is_set()
                if gate is not None and kept:
                    gate.reached.set()
            if limit is not None:
                return Limit(time.time() + limit)
            if gate is not None and kept:
                gate.go.wait(300)
        acts = list(self._acts(team, word, heard[0], heard[1:]))
        return acts[min(len(heard), len(acts)) - 1]

    def _acts(self, team: Team, word: str, message: str, answers: Sequence[str]) -> Iterator[Act]:
        number = int(word.split()[1]) if " " in word else 0
        said = answers[0] if answers else ""

        def forward(role: str, text: str) -> Mail:
            return Mail("forward", {"to": [team.addresses[role]], "body": text})

        match team.role, word.split(maxsplit=1)[0]:
            case "planner", "RAN":
                yield Mail("read_thread")
                person = re.search(r"(?m)^From: (\S+)", said)
                thread = re.search(r"(?m)^Thread: (\S+)", message)
                if person is not None and thread is not None:
                    yield Mail("send", {"to": [person[1]], "subject": "Report", "body": REPORT, "thread": thread[1]})
            case "planner", _:
                yield forward("coder", "ROUND 0: write greet.sh, which greets")
            case "coder", _:
                yield Run(f"echo 'echo greeting {number}' > project/greet.sh; cat project/greet.sh")
                yield forward("reviewer", f"CHANGED {number}: {said.strip()[-60:]}")
            case "reviewer", _:
                yield Look(self.project / "greet.sh")
                good = f"greeting {number}" in said
                if good and number == SENT_BACK:
                    yield forward("runner", "RUN greet.sh")
                else:
                    yield Mail("reply", {"body": f"ROUND {number + 1 if good else number}: it does not greet well yet"})
            case "runner", _:
                yield Run("sh project/greet.sh")
                yield forward("planner", f"RAN greet.sh: {said.strip()[-60:]}")
        yield End("That was my part.")


class TeamAnthropic(FakeAnthropic):
    """The roles that Claude plays."""

    def __init__(self, cast: Cast) -> None:
        super().__init__()
        self.cast = cast

    def next(self, request: Request) -> tuple[Answer, int]:
        _, serial = super().next(request)
        texts, heard = _told_claude(request.body)
        team = Team.told_in("\n".join(texts))
        if team is None or "mcp__agent_mailer__read_message" not in request.tools:
            return Text("fine"), serial
        match self.cast.act(team, heard):
            case Mail(tool, arguments):
                return Tool(f"mcp__agent_mailer__{tool}", arguments), serial
            case Run(command):
                return Tool("Bash", {"command": command, "description": "a step"}), serial
            case Look(path):
                return Tool("Read", {"file_path": str(path)}), serial
            case Limit(until):
                return usage_limit(until), serial
            case End(text):
                return Text(text), serial


class TeamOpenAI(FakeOpenAI):
    """The roles that Codex plays."""

    def __init__(self, cast: Cast) -> None:
        super().__init__()
        self.cast = cast

    def take(self, body: dict[str, Any], key: str) -> Step:
        with self._lock:
            self.asked.append(body)
            self.keys.append(key)
        texts, heard = _told_codex(body)
        team = Team.told_in("\n".join(texts))
        if team is None:
            return Shell("cat AGENT.md")
        heard = [text for text in heard if Team.told_in(text) is None]
        match self.cast.act(team, heard):
            case Mail(tool, arguments):
                return fake_openai.Mail(tool, arguments)
            case Run(command):
                return Shell(command)
            case Look(path):
                return Shell(f"cat {path}")
            case Limit(until):
                return fake_openai.usage_limit(until)
            case End(text):
                return fake_openai.Say(text)


def _told_claude(body: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """All that it was told, and what the tools of the newest turn have answered."""
    texts, heard = list[str](), list[str]()
    for message in body.get("messages", ()):
        content = message.get("content")
        for block in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            if block.get("type") == "text":
                texts.append(str(block["text"]))
                if _PROMPT in texts[-1]:
                    heard.clear()
            elif block.get("type") == "tool_result":
                said = block.get("content")
                heard.append("".join(one.get("text", "") for one in said) if isinstance(said, list) else str(said))
    return texts, heard


def _told_codex(body: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    texts, heard = list[str](), list[str]()
    for item in body.get("input", ()):
        # What a tool has answered is JSON within a text.
        said = "".join(fake_openai._texts(item)).replace("\\n", "\n")
        texts.append(said)
        if item.get("role") == "user" and _PROMPT in said:
            heard.clear()
        elif str(item.get("type", "")).endswith("_output"):
            heard.append(said)
    return texts, heard
