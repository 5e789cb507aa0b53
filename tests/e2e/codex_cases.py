"""Every way a turn of codex can end, played by the real program against the scripted model.

`python -m tests.e2e.codex_cases` records what it prints into tests/fixtures/codex, with what each case must be judged.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from tests.e2e.fake_openai import (
    PLAIN_MODEL,
    Cut,
    Fail,
    FakeOpenAI,
    Incomplete,
    Mail,
    Refuse,
    Say,
    Shell,
    Silence,
    Step,
    Think,
    fake_openai,
    provider_arguments,
    refusal,
    usage_limit,
)
from tests.e2e.throwaway import as_throwaway
from tools.agent_clis import VERSIONS

from agent_mailer.outcomes import Exit, Judgement, Outcome
from agent_mailer.process.holder import PROMPT_FILE, Supervised, start_behind_gate
from agent_mailer.process.output import LineFramer
from agent_mailer.process.tree import end_tree
from agent_mailer.runtimes.codex.adapter import CodexRuntime
from agent_mailer.runtimes.port import Evidence, Observation, PermissionMode, Runtime, ToolServer, TurnRequest

VERSION = VERSIONS["codex"]
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "codex"
RESET = 1_795_300_000
"""A moment of 2026-11-21, UTC, for limits that name one."""
STRANGER = "01a1fd5a-88de-7e61-bb25-e0615cbe1a2c"
RESUMED = "the session of an earlier turn"


@dataclass(frozen=True)
class Case:
    """`arguments` take the place of the fake's provider (empty: the fake's, with retries), `resume` is the session.

    `says` stands in the judgement's detail, or in the final text of a turn that is done.
    """

    steps: Sequence[Step]
    outcome: Outcome
    says: str
    arguments: Sequence[str] | None = None
    more: Sequence[str] = ()
    resume: str | None = None
    env: Mapping[str, str] = field(default_factory=lambda: {"OPENAI_API_KEY": "dummy-key"})
    tools: ToolServer | None = None
    model: str = ""


class Recorded(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line of a fixture; the other lines are what codex printed."""

    version: str
    outcome: Outcome
    says: str
    exit: Exit
    stderr: str
    resume: str | None = None


def failed(steps: Step, outcome: Outcome, says: str) -> Case:
    return Case((steps,), outcome, says)


CASES: dict[str, Case] = {
    "answer": Case(
        (
            Think("**Looking around**", "I look around first.", Shell("echo hello; true")),
            Mail("read_message"),
            Shell("exit 3"),
            Say("All is done.\nReally."),
        ),
        Outcome.DONE,
        "All is done.\nReally.",
    ),
    "answer-of-an-unknown-model": Case((Shell("echo hello"), Say("fine")), Outcome.DONE, "fine", model=PLAIN_MODEL),
    "answer-after-retries": Case(
        (Refuse(503, "busy"), Cut(), Say("fine after all")),
        Outcome.DONE,
        "fine after all",
        arguments=(),
    ),
    "answer-in-its-session": Case((Say("second"),), Outcome.DONE, "second", resume=RESUMED),
    "key-refused": failed(refusal(401, "invalid_api_key", "Incorrect API key"), Outcome.SIGNED_OUT, "401"),
    "forbidden": failed(refusal(403, "forbidden", "Not in this region"), Outcome.SIGNED_OUT, "403"),
    "key-missing": Case((), Outcome.SIGNED_OUT, "OPENAI_API_KEY", env={}),
    "quota": failed(refusal(429, "insufficient_quota", "You exceeded"), Outcome.SIGNED_OUT, "Quota exceeded"),
    "plan-without-codex": failed(
        Refuse(429, {"error": {"type": "usage_not_included", "message": "no"}}), Outcome.SIGNED_OUT, "upgrade to Plus"
    ),
    "usage-limit": Case((Mail("read_message"), usage_limit(RESET)), Outcome.LIMITED, "usage limit"),
    "usage-limit-without-moment": failed(usage_limit(None), Outcome.LIMITED, "usage limit"),
    "rate-limit": failed(refusal(429, "rate_limit_exceeded", "slow down"), Outcome.LIMITED, "429"),
    "rate-limit-with-retry-after": failed(
        refusal(429, "rate_limit_exceeded", "slow down", retry_after="30"), Outcome.LIMITED, "429"
    ),
    "rate-limit-in-the-stream": failed(
        Fail("rate_limit_exceeded", "Rate limit reached. Please try again in 1.5s."), Outcome.LIMITED, "rate limit"
    ),
    "at-capacity": failed(
        Refuse(503, {"error": {"code": "server_is_overloaded", "message": "overloaded"}}), Outcome.LIMITED, "capacity"
    ),
    "server-error": failed(refusal(500, "server_error", "oops"), Outcome.UNAVAILABLE, "high demand"),
    "bad-gateway": failed(Refuse(502, "<html>bad gateway</html>"), Outcome.UNAVAILABLE, "502"),
    "service-unavailable": failed(refusal(503, "unavailable", "later"), Outcome.UNAVAILABLE, "503"),
    "error-in-the-stream": failed(Fail("server_error", "it broke"), Outcome.UNAVAILABLE, "it broke"),
    "stream-cut": failed(Cut(), Outcome.UNAVAILABLE, "stream"),
    "stream-silent": Case(
        (Silence(headers_first=True),),
        Outcome.UNAVAILABLE,
        "idle timeout",
        more=("-c", "model_providers.fake.stream_idle_timeout_ms=1000"),
    ),
    "connection-refused": Case(
        (), Outcome.UNAVAILABLE, "Connection failed", arguments=provider_arguments("http://127.0.0.1:9/v1")
    ),
    "model-not-found": failed(
        refusal(404, "model_not_found", "The model `x` does not exist or you do not have access to it."),
        Outcome.UNAVAILABLE,
        "config set model",
    ),
    "model-not-for-this-account": failed(
        Refuse(400, {"detail": "The 'x' model is not supported when using Codex with a ChatGPT account."}),
        Outcome.UNAVAILABLE,
        "config set model",
    ),
    "nothing-at-that-address": failed(refusal(404, "not_found", "no such page"), Outcome.UNAVAILABLE, "404"),
    "bad-request": failed(refusal(400, "invalid_value", "Invalid value"), Outcome.FAILED, "Invalid value"),
    "too-large": failed(refusal(413, "too_large", "too large"), Outcome.FAILED, "413"),
    "refused-by-policy": failed(Fail("invalid_prompt", "Invalid prompt: no"), Outcome.FAILED, "Invalid prompt"),
    "answer-cut-off": failed(Incomplete(), Outcome.FAILED, "max_output_tokens"),
    "context-full": failed(Fail("context_length_exceeded", "too long"), Outcome.FAILED, "ran out of room"),
    "context-full-on-resume": Case(
        (Fail("context_length_exceeded", "too long"),), Outcome.SESSION_LOST, "ran out of room", resume=RESUMED
    ),
    "session-unknown": Case((), Outcome.SESSION_LOST, "no rollout found", resume=STRANGER),
    "tools-do-not-start": Case(
        (), Outcome.UNAVAILABLE, "required MCP servers", tools=ToolServer(("/nonexistent/tools",), {})
    ),
    "tools-do-not-start-on-resume": Case(
        (),
        Outcome.UNAVAILABLE,
        "required MCP servers",
        tools=ToolServer(("/nonexistent/tools",), {}),
        resume=RESUMED,
    ),
    "provider-unknown": Case((), Outcome.UNAVAILABLE, "nosuch", more=("-c", "model_provider=nosuch")),
    "setting-wrong": Case((), Outcome.UNAVAILABLE, "sandbox_mode", more=("-c", "sandbox_mode=nosuch")),
    "flag-unknown": Case((), Outcome.UNAVAILABLE, "--nosuch", more=("--nosuch",)),
    "feature-unknown": Case((), Outcome.UNAVAILABLE, "nosuch", more=("--enable", "nosuch")),
}


@dataclass(frozen=True)
class Played:
    judgement: Judgement
    observation: Observation
    exit: Exit
    stdout: Path
    stderr: str
    resume: str | None
    seconds: float


def play(case: Case, binary: Path, base: Path, fake: FakeOpenAI) -> Played:
    """Run codex as the adapter would, follow its output and judge it."""
    fake.script(*case.steps)
    runtime = runtime_for(case, binary, base, fake)
    resume = case.resume
    if resume == RESUMED:
        fake.script(Say("first"), *case.steps)
        session_id = run(runtime, request_in(base)).observation.session_id
        assert session_id is not None
        resume = session_id
    return run(runtime, request_in(base, resume, case.tools))


def runtime_for(case: Case, binary: Path, base: Path, fake: FakeOpenAI) -> CodexRuntime:
    workdir, home = base / "work", base / "codex-home"
    # Codex makes no helper of its sandbox in a home below the temporary folder.
    for folder in (workdir, home, base / "tmp"):
        folder.mkdir(mode=0o700, exist_ok=True)
    arguments = case.arguments
    if not arguments:
        arguments = fake.provider(retries=2 if arguments is not None else 0)
    return CodexRuntime(
        str(binary),
        {"HOME": str(base), "PATH": os.environ["PATH"], "TZ": "UTC", "TMPDIR": str(base / "tmp"), **case.env},
        mode=PermissionMode.ACCEPT_EDITS,
        model=case.model,
        extra_args=[*arguments, *case.more],
        home=home,
    )


def run(runtime: Runtime, request: TurnRequest) -> Played:
    started = time.monotonic()
    with begun(runtime, request) as turn:
        asyncio.run(asyncio.wait_for(turn.wait_ended(), 60))
    return judged(runtime, request.turn_dir, turn.exit(), request.session_id, time.monotonic() - started)


@contextmanager
def begun(runtime: Runtime, request: TurnRequest) -> Iterator[Supervised]:
    """Codex below a holder, as in a turn: of a sandbox of its own that it ends at its start, something is left."""
    launch = runtime.command(request)
    (request.turn_dir / PROMPT_FILE).write_text("Read your mail.")
    argv, folder, turn_id = as_throwaway(launch.argv), request.turn_dir, request.turn_id
    turn = start_behind_gate(argv, env=launch.env, cwd=launch.cwd, turn_dir=folder, turn_id=turn_id).release()
    try:
        yield turn
    finally:
        report = asyncio.run(end_tree(turn_id, turn.holder, grace=0.0, left_nothing=turn.left_nothing))
        assert not report.survivors


def judged(runtime: Runtime, folder: Path, end: Exit, resume: str | None, seconds: float = 0.0) -> Played:
    """What becomes of the output in `folder`, as a turn's follower and judge see it."""
    observation = Observation()
    framer = LineFramer()
    lines = framer.feed((folder / "stdout").read_bytes())
    for line in (*lines, framer.finish() or b""):
        for event in runtime.parse(line):
            observation.add(event)
    evidence = Evidence(observation, end, folder / "stdout", folder / "stderr", resume)
    doomed = observation.doomed
    judgement = runtime.judge(evidence) if doomed is None else Judgement(doomed.outcome, doomed.detail)
    stderr = (folder / "stderr").read_text(errors="replace")
    return Played(judgement, observation, end, folder / "stdout", stderr, resume, seconds)


def request_in(
    base: Path, resume: str | None = None, tools: ToolServer | None = None, *, folder: str = "turn"
) -> TurnRequest:
    turn_dir = base / folder
    turn_dir.mkdir(exist_ok=True)
    return TurnRequest(
        turn_id=f"turn-{secrets.token_hex(8)}",
        turn_dir=turn_dir,
        workdir=base / "work",
        project_dir=None,
        message_id="message-1",
        thread_id="thread-1",
        sender="somebody",
        attempt=1,
        session_id=resume,
        tools=tools or ToolServer((sys.executable, "-c", _TOOLS), {}),
    )


_TOOLS = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        told = {
            "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                           "serverInfo": {"name": "tools", "version": "1"}},
            "tools/list": {"tools": [{"name": "read_message", "description": "Read the mail.",
                                      "inputSchema": {"type": "object", "properties": {}}}]},
            "tools/call": {"content": [{"type": "text", "text": "a mail"}]},
        }.get(asked["method"], {})
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": told}), flush=True)
"""


def _without(places: Mapping[str, str], text: str) -> str:
    for place, name in places.items():
        text = text.replace(place, name)
    return text


def main() -> None:
    from tests.e2e.clis import codex_binary

    FIXTURES.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder, fake_openai() as fake:
            base = Path(folder)
            played = play(case, codex_binary(), base, fake)
            places = {str(base): "/base", fake.url: "http://127.0.0.1:1/v1", sys.executable: "python"}
            recorded = Recorded(
                VERSION, case.outcome, case.says, played.exit, _without(places, played.stderr)[-2000:], played.resume
            )
            lines = [msgspec.json.encode(recorded).decode(), *_without(places, played.stdout.read_text()).splitlines()]
            (FIXTURES / f"{VERSION}-{name}.jsonl").write_text("\n".join(lines) + "\n")
            right = played.judgement.outcome is case.outcome
            print(f"{'ok ' if right else 'BAD'} {name}: {played.judgement} ({played.seconds:.1f} s)")


if __name__ == "__main__":
    main()
