"""Every byte from outside, changed at random: what is no mail, event, answer or state is told as that, and by nothing
but our own errors; what cannot be read is not thrown away.

`PLANTED` runs the same on a copy of the program whose readers lack a guard: it must be found.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.amq_tree import Project, write
from tests.crash import stream_doors
from tests.crash.mutants import TEXTS, changed
from tests.kept import FOLDER, load
from tests.proved import Harness, proved
from tests.sizes import sizes

import agent_mailer
from agent_mailer.assemble import Workplace
from agent_mailer.config_values import load as load_config
from agent_mailer.errors import MailerError
from agent_mailer.identity import parse_identity
from agent_mailer.mailbox.amp import answers, stream, wire
from agent_mailer.mailbox.maildir import format as mail_format
from agent_mailer.mailbox.maildir import routes
from agent_mailer.mailbox.mcp_agent_mail import wire as mcp_wire
from agent_mailer.mailbox.port import MailboxUnavailable
from agent_mailer.outside import generic, github, signature
from agent_mailer.outside.event import BadEvent
from agent_mailer.runtimes import own_lines
from agent_mailer.runtimes.claude import lines as claude_lines
from agent_mailer.runtimes.claude.fence import Fence
from agent_mailer.runtimes.codex import lines as codex_lines
from agent_mailer.runtimes.command import CommandRuntime
from agent_mailer.runtimes.port import CommandOutput
from agent_mailer.state import State

FIXTURES = FOLDER.parent
EXAMPLES = {"quick": 8, "long": 100}
"""Always the same."""
OTHERS = int(os.environ.get("FUZZ_EXAMPLES", "20000"))
"""Others each time."""
NOW = 1_795_000_000.0

MESSAGE = (
    b'{"id":"m1","thread_id":"t1","from_agent":"bob@ann","to_agent":"coder@ann","action":"send","subject":"Plan",'
    b'"body":"Which one?","attachments":[{"type":"text","name":"a.txt","content":"x"}],"is_read":false,"cursor":7,'
    b'"parent_id":"m0","created_at":"2026-11-21T08:15:00.000000+00:00","hops":2,"visited":["a","b"],"priority":"high",'
    b'"labels":["x"],"kind":"task","automatic":"no"}'
)
REFUSALS = (
    b'{"detail":"no such agent"}',
    b'{"detail":[{"loc":["body","x"],"msg":"field required","type":"missing"}]}',
    b'{"detail":"busy","watcher":{"name":"w","since":"2026-11-21T08:15:00Z"},"reason":"stale"}',
    b"<html>Bad Gateway</html>",
)
ROW = (
    b'{"id":12,"created_ts":"2026-11-21T08:15:00.5+00:00","subject":"Plan","body_md":"Which?","sender":"BlueLake",'
    b'"thread_id":"t","topic":"am-k1-h2-auto-task","importance":"urgent","ack_required":true,"from_address":null}'
)
ISSUE = (
    b'{"action":"opened","issue":{"number":3,"title":"T","body":"B","html_url":"https://x/3","user":{"login":"ann"},'
    b'"labels":[{"name":"bug"}],"state":"open"},"repository":{"full_name":"a/b"},"sender":{"login":"ann"},'
    b'"comment":{"id":5,"body":"c","html_url":"u","user":{"login":"z"}},'
    b'"workflow_run":{"id":1,"name":"ci","conclusion":"failure","head_branch":"main","html_url":"u","run_number":4},'
    b'"ref":"refs/heads/main","commits":[{"id":"abc","message":"m","url":"u"}],"zen":"z"}'
)
GENERIC = (
    b'{"id":"e1","title":"T","body":"B","subject":"s","state":"open","key":"k","url":"https://x","at":"2026-11-21",'
    b'"occurredAt":"2026-11-21T08:15:00Z","timestamp":"2026-11-21T08:15:00Z","facts":{"a":"b"},"labels":["x"]}'
)
COMMAND_LINES = (
    b'{"type":"session","id":"s-1"}',
    b'{"type":"progress","text":"at it"}',
    b'{"type":"tool","id":"t","name":"Bash","text":"ls"}',
    b'{"type":"tool_end","id":"t"}',
    b'{"type":"usage","input_tokens":5,"output_tokens":7,"cost_usd":0.5,"cached_input_tokens":2}',
    b'{"type":"result","outcome":"limited","text":"t","detail":"d","retry_at":"2026-11-21T08:15:00Z"}',
    b'{"type":"result","outcome":"asked","tool":"Bash","input":{"command":"push"}}',
)
CONFIG = (
    b'address = "coder"\nruntime = "command"\ncommand = ["x"]\npermission_mode = "plan"\nmax_retries = 3\n[retry]\n'
    b'first = 1\n[guards]\nturns_per_hour = 5\n[limits]\ndollars_per_day = 1.5\n[[schedule]]\nname = "n"\n'
    b'cron = "0 0 * * *"\nsubject = "s"\nbody = "b.md"\n[approve]\nexpires = "3d"\n'
)
IDENTITY = b"# Agent\n\n- **Address**: coder@ann\n- agent_id: 12\n| name | coder |\nbroker_url: http://127.0.0.1:1\n"
AMQRC = b'{"root":".agent-mail","project":"home","peers":{"away":"../away","b":"/srv/b"}}'


class Door(msgspec.Struct, frozen=True):
    """A way in: what comes by it, who reads it, and what he may raise for what is wrong."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    faults: tuple[type[Exception], ...] = ()


def _lines(*folders: str) -> tuple[bytes, ...]:
    found = [
        line
        for folder in folders
        for path in sorted((FIXTURES / folder).rglob("*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]
    # Of each kind of line a few: by its beginning.
    return tuple({line[:60]: line for line in found if len(line) < 20_000}.values())


def _mail() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as name:
        project = Project(Path(name) / "p", "coder", "bob")
        context = {"file": "x", mail_format.CONTEXT_KEY: {"hops": 3, "automatic": "notice", "visited": ["bob"]}}
        write(project.base, "coder", priority="urgent", kind="todo", labels=["a"], context=context, refs=["x"])
        write(project.base, "coder", reply_to="bob", reply_project="away", from_project="home")
        return tuple(path.read_bytes() for path in sorted((project.base / "agents/coder/inbox/new").iterdir()))


def _mail_file(data: bytes) -> None:
    whole, head = mail_format.parse_message(data, "x.md"), mail_format.parse_envelope(data, "x.md")
    mail_format.parse_head(data[:2000], "x.md")
    assert isinstance(whole, mail_format.Malformed) == isinstance(head, mail_format.Malformed), "head and whole agree"
    if not isinstance(whole, mail_format.Malformed):
        assert mail_format.is_message_id(whole.envelope.id)
        msgspec.json.decode(msgspec.json.encode(whole))


@cache
def _project() -> tuple[tempfile.TemporaryDirectory[str], Project]:
    folder = tempfile.TemporaryDirectory()
    return folder, Project(Path(folder.name) / "p", "coder", "bob")


def _amqrc(data: bytes) -> None:
    _, project = _project()
    (project.top / ".amqrc").write_bytes(data)
    for text in ("bob@away", "bob", "bob@home:web", "bob@b"):
        with suppress(MailerError):
            routes.find(project.base, "coder", text)


def _answer(data: bytes) -> None:
    for status in (200, 400, 401, 409, 422, 503):
        answer = answers.Answer("GET /x", status, data)
        for read in (answers.detail_of, answers.reason_of, answers.may_pass, answers.is_stale, answers.unavailable):
            read(answer)
        answers.credentials_refused(answer)
        stream.held_by(answer)
    wire.names_within(data)
    text = data.decode("utf-8", "replace")
    assert 0.0 <= answers.retry_after(text, NOW) <= answers.LONGEST_PAUSE
    for said in TEXTS:
        assert 0.0 <= answers.retry_after(said, NOW) <= answers.LONGEST_PAUSE
    with suppress(MailboxUnavailable):
        wire.parse_object(answers.Answer("GET /x", 200, data), wire.Page)


def _listing(data: bytes) -> None:
    """An item that is none hides no other."""
    wire.parse_message(data)
    good = b"[%s,%s,%s]" % (MESSAGE, data, MESSAGE)
    with suppress(MailboxUnavailable):
        found = wire.parse_list(answers.Answer("GET /x", 200, good))
        assert [one.message.envelope.id for one in found if isinstance(one, wire.Heard)][:1] == ["m1"]


def _events_of_a_stream(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    stream._epoch_in(text)
    stream._taken_by(text)


def _rows(data: bytes) -> None:
    rows, odd = mcp_wire.rows_in([msgspec.Raw(ROW), msgspec.Raw(data)])
    assert len(rows) + len(odd) == 2
    for row in rows:
        message = mcp_wire.message_of(row, ())
        mcp_wire.number_of(message.envelope.id)
        mcp_wire.is_contact_request(row)
    mcp_wire.number_of(data.decode("utf-8", "replace"))
    mcp_wire.marks_in(data.decode("utf-8", "replace"))


def _github(data: bytes) -> None:
    for name in ("issues", "pull_request", "issue_comment", "workflow_run", "check_suite", "push", "ping", "star"):
        with suppress(BadEvent):
            github.read(name, data)


def _signature(data: bytes) -> None:
    given = data.decode("utf-8", "replace")
    assert signature.check("secret", given, b"body", NOW) is not signature.Verdict.GOOD
    signature.check_github("secret", given, b"body")


def _config(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "config.toml"
        path.write_bytes(data)
        load_config(path, {}, {}, {})


COMMAND = CommandRuntime(["x"], CommandOutput.JSONL, {})
DOORS = (
    Door("mail", _mail(), _mail_file),
    Door("amqrc", (AMQRC,), _amqrc),
    Door("claude", _lines("claude"), lambda data: claude_lines.events_of(data, Fence(None))),
    Door("claude-tools", _lines("claude"), claude_lines.tools_of),
    Door("codex", _lines("codex"), codex_lines.events_of),
    Door("codex-words", _lines("codex"), codex_lines.agent_message),
    Door("command", COMMAND_LINES, COMMAND.parse),
    Door("acp", stream_doors.recorded(), stream_doors.acp),
    Door("own-lines", COMMAND_LINES, own_lines.events_of),
    Door("stream", stream_doors.EVENTS, stream_doors.events),
    Door("http", stream_doors.ANSWERS, stream_doors.answers),
    Door("sse", (b'{"epoch":3}', b'{"name":"w","since":"2026"}'), _events_of_a_stream),
    Door("answers", REFUSALS, _answer),
    Door("listing", (MESSAGE,), _listing),
    Door("rows", (ROW,), _rows),
    Door("github", (ISSUE,), _github),
    Door("events", (GENERIC,), lambda data: generic.read(data, "monitor"), (BadEvent,)),
    Door("signature", (b"t=1795000000,v1=abcdef", b"sha256=00"), _signature),
    Door("config", (CONFIG,), _config, (MailerError,)),
    Door("identity", (IDENTITY,), lambda data: parse_identity(data.decode("utf-8", "replace"))),
)


@pytest.mark.parametrize("examples", sizes(**EXAMPLES, soak=OTHERS))
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_what_comes_from_outside_is_read_or_told_as_what_it_is(door: Door, examples: int) -> None:
    @_profile(examples)
    @given(changed(door.seeds))
    def fuzz(data: bytes) -> None:
        with suppress(*door.faults):
            door.read(data)

    fuzz()
    proved(Harness.FUZZ, inputs=examples)


READERS: Mapping[str, Callable[[State], object]] = {
    "processed.txt": lambda state: "x" in state.processed,
    "cursor.txt": lambda state: state.cursor,
    "retries.json": lambda state: list(state.retries.all()),
    "sessions.json": lambda state: list(state.sessions.all()),
    "sessions.journal": lambda state: list(state.sessions.all()),
    "dead_letter.jsonl": lambda state: (state.dead_letters.all(), state.dead_letters.count()),
    "held.jsonl": lambda state: (state.held.waiting, list(state.held.all()), state.held.counts()),
    "inflight.json": lambda state: (state.turns.indexed(), state.turns.vanished()),
    "pause.json": lambda state: (state.pause.read(), state.pause.current()),
    "trouble.json": lambda state: state.trouble.read(),
    "usage.json": lambda state: state.usage.days(),
    "guards.json": lambda state: state.notices.told,
    "turns/T/turn.json": lambda state: state.turns.load("T"),
    "turns/T/mail.json": lambda state: _mail_of(state),
    "turns/T/outbox/k1.json": lambda state: state.turns.folder("T").staged(),
}
LEFT_IN_PLACE = ("turns/T/mail.json", "turns/T/outbox/k1.json", "cursor.txt")
"""What an agent may have written anyway, or nobody needs."""
DRAFT = b'{"key":"k1","action":"reply","created":1795000000,"body":"half way","at_once":true,"to":["a"],"labels":["x"]}'


def _mail_of(state: State) -> None:
    with suppress(MailerError):
        state.turns.folder("T").messages()


def _seeds_of(name: str) -> tuple[bytes, ...]:
    if name.endswith("k1.json"):
        return (DRAFT,)
    found = [
        text.encode()
        for path in sorted(FOLDER.glob("*.json"))
        for place, text in load(path).files.items()
        if place.startswith("coder/.agent-mailer/") and place.endswith(f"/{Path(name).name}")
    ]
    assert found, name
    return tuple(found)


@pytest.mark.parametrize("examples", sizes(**EXAMPLES, soak=OTHERS // 10))
@pytest.mark.parametrize("name", READERS)
def test_state_that_is_damaged_is_told_and_kept(tmp_path: Path, name: str, examples: int) -> None:
    @_profile(examples)
    @given(changed(_seeds_of(name)))
    def fuzz(data: bytes) -> None:
        workdir = Path(tempfile.mkdtemp(dir=tmp_path))
        path = workdir / ".agent-mailer" / name
        path.parent.mkdir(parents=True)
        for folder in (path.parent, *path.parent.parents):
            if folder == workdir:
                break
            folder.chmod(0o700)
        path.write_bytes(data)
        place = Workplace(workdir)
        READERS[name](place.state)
        READERS[name](place.state)
        kept = [one.read_bytes() for one in path.parent.iterdir() if one.is_file()]
        assert any(data in one for one in kept), f"{name}: what could not be read is gone"
        shutil.rmtree(workdir)

    fuzz()
    proved(Harness.FUZZ, damaged_files=examples)


def _profile(examples: int) -> settings:
    fixed = examples in EXAMPLES.values()
    return settings(
        max_examples=examples,
        derandomize=fixed,
        deadline=None,
        database=None,
        print_blob=True,
        # That a fault is there is all that is asked where one was planted.
        phases=(Phase.generate,) if "FUZZ_FIRST" in os.environ else tuple(Phase),
        suppress_health_check=list(HealthCheck),
    )


PLANTED: Sequence[tuple[str, str, str, str]] = (
    (
        "answers",
        "mailbox/amp/answers.py",
        r"if text\.strip\(\)\.isascii\(\) and text\.strip\(\)\.isdigit\(\):",
        "if text.strip().isdigit():\n        int(text.strip())",
    ),
    ("rows", "mailbox/mcp_agent_mail/wire.py", r"return int\(number\) if number\.isascii\(\) .*", "return int(number)"),
    (
        "mail",
        "mailbox/maildir/format.py",
        r"marks = context\.get\(CONTEXT_KEY\) if .*",
        "marks = context.get(CONTEXT_KEY) if isinstance(context, dict) else None\n"
        "    int(marks['hops'] if isinstance(marks, dict) else 0)",
    ),
    ("acp", "runtimes/acp/wire.py", r'return found if isinstance\(found, str\) else ""', 'return found or ""'),
    (
        "stream",
        "mailbox/amp/stream.py",
        r"if event\.id\.isascii\(\) and event\.id\.isdigit\(\) and .*:",
        "if event.id.isdigit() and int(event.id) >= 0:",
    ),
    (
        "http",
        "mailbox/amp/wires.py",
        r"except \(asyncio\.LimitOverrunError, ValueError\):",
        "except asyncio.LimitOverrunError:",
    ),
)


@pytest.mark.long
@pytest.mark.parametrize(("door", "module", "guard", "without"), PLANTED, ids=[case[0] for case in PLANTED])
def test_a_reader_without_its_guard_is_found(tmp_path: Path, door: str, module: str, guard: str, without: str) -> None:
    project = Path(__file__).parents[2]
    copy = tmp_path / "src" / "agent_mailer"
    shutil.copytree(Path(agent_mailer.__file__).parent, copy)
    shutil.copytree(project / "templates", tmp_path / "templates")
    text = (copy / module).read_text()
    (copy / module).write_text(re.sub(guard, lambda _: without, text, count=1))
    assert (copy / module).read_text() != text
    begun = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(copy.parent), "FUZZ_EXAMPLES": "20000", "FUZZ_FIRST": "1"}
    test = f"{Path(__file__)}::test_what_comes_from_outside_is_read_or_told_as_what_it_is"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "soak", "-k", f"soak and {door}-", test],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    assert str(copy) in done.stdout, f"it was the copy that failed ({time.monotonic() - begun:.0f} s)"
    assert "1 failed" in done.stdout
