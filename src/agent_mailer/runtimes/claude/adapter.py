"""Claude Code as a runtime: what is started, with which environment, and how its end is judged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import msgspec

from agent_mailer.approvals.turn import SIGN
from agent_mailer.errors import ConfigFault
from agent_mailer.names import printable
from agent_mailer.outcomes import Judgement, Outcome
from agent_mailer.process.output import tail_text
from agent_mailer.runtimes.claude.failures import meaning_of_stderr, old_limit
from agent_mailer.runtimes.claude.fence import (
    TOOLS,
    denials,
    fence,
    heard_hook,
    settings,
    too_much,
    tool_words,
    values_of,
)
from agent_mailer.runtimes.claude.lines import NOT_ASKING, TASK_STOPPED, events_of, tools_of
from agent_mailer.runtimes.port import (
    FENCE,
    LOGIN,
    Asks,
    Event,
    Evidence,
    Finding,
    Launch,
    PermissionMode,
    Probe,
    ProgramHome,
    Reach,
    Result,
    RuntimeMissing,
    RuntimeTraits,
    Trouble,
    TurnRequest,
)
from agent_mailer.runtimes.programs import (
    as_uuid,
    find_program,
    how_it_crashed,
    last_words,
    secrets_in,
    turn_variables,
    with_interpreter,
)

OLDEST_KNOWN = (2, 1, 0)
_ANSWERS_NO_PROMPTS = (2, 1, 329)
"""The oldest version known to take `--permission-prompts`; the ones before deny what would ask just the same."""

_KEY = "claude_command"
_NOWHERE = "http://127.0.0.1:9"
_INSTALL = "npm install --global @anthropic-ai/claude-code"
_STDERR_LOOK = 16 * 1024
_STUB = b"claude native binary not installed"
_STUB_LIMIT = 4096
_VERSION = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)")
_TURN_SPACE = uuid.UUID("6f1c2f4e-6f0b-5d0a-9d55-6a2f3b7f5c11")

# What a user sets with [env] wins over these.
_DEFAULTS = {
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    # A task left in the background would keep the process after its result and bring a second one.
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    # By itself claude tries ten times, for about three minutes, and waits six minutes for a first byte. Two more tries
    # ride out a short fault in some three seconds; the rest is the watcher's, which pauses for all threads at once.
    "CLAUDE_CODE_MAX_RETRIES": "2",
    # How long a stream may stay without a byte, before its first and between two: the patience that claude itself has
    # with the provider it knows best (its default behind a gateway is longer). A model that thinks sends bytes.
    "API_TIMEOUT_MS": "180000",
    "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": "180000",
    # Notes of its own, beside ours, which join every thread without anybody's knowledge.
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    # The project's settings do not count, but its CLAUDE.md is what the agent works by.
    "CLAUDE_CODE_ADDITIONAL_DIRECTORIES_CLAUDE_MD": "1",
}

# Whose account it is: the first that is set is used, and where none is set the login in the config home.
_CREDENTIALS = (
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_API_KEY",
    "CLAUDE_CODE_OAUTH_TOKEN",
)
_SANDBOXES = ("IS_SANDBOX", "CLAUDE_CODE_BUBBLEWRAP")

# In the config home: what claude obeys in every session of that person.
_SETTINGS = ("settings.json", "CLAUDE.md", "agents", "commands", "skills", "rules", "hooks", "output-styles", "plugins")
_KEPT = ("local", "chrome", "workflows", "teams", "keybindings.json", "remote-settings.json", "scheduled_tasks.json")
"""Programs that others start, and what else each session obeys."""
_HIDDEN = ("ide",)
"""Ports and keys of editors."""
_FRESH = ("shell-snapshots", "session-env")
"""What each session has its shell read before a command."""

# What a result that means one of these says less surely than the complaint before it.
_TAKES_THE_COMPLAINT = (Outcome.FAILED, Outcome.SESSION_LOST)


class ClaudeOptions(msgspec.Struct, frozen=True):
    """What the user has chosen; empty = claude's own choice, but for `tools`. `max_budget_usd` 0 = no limit."""

    permission_mode: PermissionMode
    model: str = ""
    tools: tuple[str, ...] = ()
    extra_args: tuple[str, ...] = ()
    max_budget_usd: float = 0.0
    config_home: Path | None = None
    reach: Reach = Reach()
    asks: bool = False
    """A person is asked before some calls."""


class ClaudeRuntime:
    """`program` is a name or a path; `base_env` what `build_env` made. Raises ConfigFault for what claude refuses."""

    def __init__(
        self, program: str, options: ClaudeOptions, base_env: Mapping[str, str], *, is_root: bool | None = None
    ) -> None:
        self._program = program
        self._options = options
        self._fence = fence(options.tools, options.extra_args, asks=options.asks)
        self._env = _DEFAULTS | dict(base_env)
        if options.config_home is not None:
            self._env["CLAUDE_CONFIG_DIR"] = str(options.config_home)
        as_root = os.geteuid() == 0 if is_root is None else is_root
        bypass = options.permission_mode is PermissionMode.BYPASS_PERMISSIONS
        if bypass and as_root and not any(self._env.get(name) for name in _SANDBOXES):
            raise ConfigFault(
                "root_bypass",
                "claude refuses permission_mode bypassPermissions to root",
                "run the watcher as another user; agent-mailer config set permission_mode acceptEdits; or, where this "
                'machine is a sandbox, set IS_SANDBOX = "1" in [env.set]: agent-mailer config edit',
            )

    @property
    def traits(self) -> RuntimeTraits:
        home = ProgramHome(self._home(), _SETTINGS, "CLAUDE_CODE_TMPDIR", _KEPT, _HIDDEN, _FRESH)
        return RuntimeTraits(
            name="claude",
            has_events=True,
            resumes=True,
            account=self._account(),
            home=home,
            remote=True,
            asks=self._options.asks,
        )

    def command(self, request: TurnRequest) -> Launch:
        """Raises RuntimeMissing."""
        program = self._find(request.workdir)
        fresh = str(uuid.uuid5(_TURN_SPACE, request.turn_id)) if request.session_id is None else None
        session = ("--resume", as_uuid(request.session_id)) if request.session_id else ("--session-id", str(fresh))
        argv = (str(program), "-p", *session, *self._words(program, request))
        return Launch(argv=argv, env=self._env | turn_variables(request), cwd=request.workdir, session_id=fresh)

    def parse(self, line: bytes) -> Sequence[Event]:
        return events_of(line, self._fence)

    def judge(self, evidence: Evidence) -> Judgement:
        result, trouble = evidence.observation.result, evidence.observation.trouble
        if result is not None:
            return _fresh_is_no_loss(_of_result(result, trouble), evidence)
        if evidence.exit.status is None:
            return Judgement(Outcome.CRASHED, how_it_crashed(evidence.exit))
        known = meaning_of_stderr(tail_text(evidence.stderr, _STDERR_LOOK))
        if known is not None:
            meaning, line = known
            judgement = Judgement(meaning.outcome, meaning.detail(line), retry_at=old_limit(line))
            return _fresh_is_no_loss(judgement, evidence)
        words = last_words(evidence.stderr)
        if evidence.exit.status in (126, 127):
            return Judgement(Outcome.UNAVAILABLE, words or f"{self._program} cannot be executed ({_INSTALL})")
        if trouble is not None:
            return _fresh_is_no_loss(Judgement(trouble.outcome, trouble.detail, retry_at=trouble.retry_at), evidence)
        if evidence.exit.status == 0:
            return Judgement(Outcome.FAILED, "claude ended without a result")
        return Judgement(Outcome.FAILED, words or f"exit status {evidence.exit.status}")

    def probes(self, workdir: Path) -> Sequence[Probe]:
        """Raises RuntimeMissing."""
        program = str(self._find(workdir))
        return (
            Probe("version", (program, "--version"), self._env, workdir),
            Probe(LOGIN, (program, "auth", "status"), self._env, workdir),
            self._trial(program, workdir),
        )

    def read_probe(self, probe: Probe, status: int, output: str) -> Finding:
        if probe.name == LOGIN:
            return self._login(status, output)
        if probe.name == FENCE:
            return self._fenced(output)
        version = _version_in(output)
        if status or version is None:
            said = printable(output.strip(), 200) or f"exit status {status}"
            return Finding(ok=False, text=f"claude does not tell its version: {said}", fix=_INSTALL)
        shown = ".".join(map(str, version))
        if version < OLDEST_KNOWN:
            oldest = ".".join(map(str, OLDEST_KNOWN))
            return Finding(
                ok=False, text=f"claude {shown} is older than {oldest}, the oldest known to work", fix=_INSTALL
            )
        return Finding(ok=True, text=f"claude {shown}")

    def kept_sessions(self) -> frozenset[str] | None:
        return frozenset(path.stem for path in self._home().glob("projects/*/*.jsonl"))

    def _login(self, status: int, output: str) -> Finding:
        method = ""
        with suppress(ValueError, AttributeError):
            method = str(json.loads(output[output.index("{") : output.rindex("}") + 1]).get("authMethod", ""))
        if status == 0:
            # claude only looks whether there is one: whether it is good shows with the first turn.
            return Finding(
                ok=True, text=f"claude has a login ({printable(method, 60) or 'of a kind it does not name'})"
            )
        fix = "claude auth login, or name the key's variable in [env] pass: agent-mailer config edit"
        if self._options.config_home is not None:
            fix = f"CLAUDE_CONFIG_DIR={self._options.config_home} {fix}"
        return Finding(ok=False, text="claude is not logged in", fix=fix)

    def _trial(self, program: str, workdir: Path) -> Probe:
        """A start that asks no model: the prompt is a command which claude answers itself, and no provider is there."""
        options = self._options
        by_hand = values_of(options.extra_args, "--tools")
        words = tuple(tool_words(options.tools, ())) if by_hand is None else ("--tools", *by_hand)
        hooks = json.dumps(heard_hook(SIGN) if options.asks else {"disableAllHooks": True})
        quiet = ("--setting-sources", "user", "--settings", hooks, "--strict-mcp-config", "--no-session-persistence")
        form = ("--verbose", "--output-format", "stream-json", "--permission-mode", options.permission_mode.value)
        env = {**self._env, "ANTHROPIC_BASE_URL": _NOWHERE, "CLAUDE_CODE_MAX_RETRIES": "0"}
        return Probe(FENCE, (program, "-p", *words, *quiet, *form, "--", "/compact"), env, workdir)

    def _fenced(self, output: str) -> Finding:
        known = meaning_of_stderr(output)
        if known is not None:
            meaning, line = known
            return Finding(ok=False, text=meaning.detail(line), fix=_INSTALL)
        offered = next((tools for line in output.splitlines() if (tools := tools_of(line.encode())) is not None), None)
        if offered is None:
            said = printable(output.strip(), 200) or "nothing"
            return Finding(ok=False, text=f"claude does not say which tools it has: {said}", fix=_INSTALL)
        events = (event for line in output.splitlines() for event in self.parse(line.encode()))
        if self._options.asks and Asks() not in events:
            return Finding(ok=False, text=NOT_ASKING, fix="claude doctor", opens=True)
        if beyond := self._fence.beyond(offered):
            return Finding(ok=False, text=too_much(beyond), fix="agent-mailer config edit")
        return Finding(ok=True, text=f"claude's own tools in a turn: {', '.join(offered) or 'none'}")

    def _find(self, workdir: Path) -> Path:
        program = find_program(self._program, workdir, self._env, _KEY)
        with suppress(OSError):
            # npm leaves a script of this kind where it was told not to run the package's own.
            if program.stat().st_size <= _STUB_LIMIT and _STUB in program.read_bytes():
                raise RuntimeMissing("no_native_binary", f"{program} lacks its native binary", _INSTALL)
        return with_interpreter(program, workdir, self._env)

    def _words(self, program: Path, request: TurnRequest) -> Iterator[str]:
        """Options that take several values come first: extra arguments must not become values of theirs."""
        options = self._options
        denied = denials(self._reach(), request.workdir)
        given = settings(options.extra_args, request.workdir, tuple(denied), request.asking)
        yield from tool_words(options.tools, options.extra_args)
        yield "--allowedTools"
        yield f"mcp__{TOOLS}"
        yield "--mcp-config"
        yield _server(request)
        yield "--add-dir"
        yield str(request.workdir)
        if request.project_dir is not None:
            yield str(request.project_dir)
        yield "--setting-sources"
        yield "user"
        yield "--settings"
        yield given.text
        yield "--strict-mcp-config"
        # Without them nothing is written while one long answer comes, and silence would mean nothing.
        yield "--include-partial-messages"
        yield "--verbose"
        yield "--output-format"
        yield "stream-json"
        yield "--permission-mode"
        yield options.permission_mode.value
        version = _version_of(program)
        if version is not None and version >= _ANSWERS_NO_PROMPTS:
            yield "--permission-prompts"
            yield "none"
        if options.model:
            yield "--model"
            yield options.model
        if options.max_budget_usd:
            yield "--max-budget-usd"
            yield f"{Decimal(repr(options.max_budget_usd)):f}"
        yield from given.extra

    def _reach(self) -> Reach:
        """Ours, its login, what it obeys in every session; and where not everything is allowed, a person's keys."""
        own, home = self._options.reach, self._home()
        anything = self._options.permission_mode is PermissionMode.BYPASS_PERMISSIONS
        return Reach(
            hidden=(*own.hidden, home / ".credentials.json", *(() if anything else secrets_in(self._env))),
            kept=(*own.kept, *(home / name for name in _SETTINGS)),
        )

    def _home(self) -> Path:
        own = self._env.get("CLAUDE_CONFIG_DIR")
        return Path(own) if own else Path(self._env.get("HOME", "~")) / ".claude"

    def _account(self) -> str:
        """The same for all who share a limit: one config home, one credential, one provider."""
        home = str(self._home())
        name = next((name for name in _CREDENTIALS if self._env.get(name)), "")
        parts = (home, name, self._env.get(name, ""), self._env.get("ANTHROPIC_BASE_URL", ""))
        digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]


def _of_result(result: Result, trouble: Trouble | None) -> Judgement:
    if result.outcome in _TAKES_THE_COMPLAINT and trouble is not None:
        # The complaint before it says more: 400 alone may be the bill, the message or the session.
        return Judgement(trouble.outcome, trouble.detail or result.detail, retry_at=trouble.retry_at)
    if result.outcome is Outcome.DONE and trouble is not None and trouble.detail.startswith(TASK_STOPPED):
        return Judgement(Outcome.DONE, trouble.detail, result.text)
    retry_at = result.retry_at
    if result.outcome is Outcome.LIMITED and retry_at is None and trouble is not None:
        retry_at = trouble.retry_at if trouble.outcome is Outcome.LIMITED else None
    return Judgement(result.outcome, result.detail, result.text, retry_at)


def _fresh_is_no_loss(judgement: Judgement, evidence: Evidence) -> Judgement:
    if judgement.outcome is Outcome.SESSION_LOST and evidence.resume is None:
        return msgspec.structs.replace(judgement, outcome=Outcome.FAILED)
    return judgement


def _server(request: TurnRequest) -> str:
    """Loaded up front: otherwise the model would have to search for its mail tools first."""
    command, *words = request.tools.argv
    server = {"command": command, "args": words, "env": dict(request.tools.env), "alwaysLoad": True}
    return json.dumps({"mcpServers": {TOOLS: server}})


def _version_in(text: str) -> tuple[int, int, int] | None:
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _version_of(program: Path) -> tuple[int, int, int] | None:
    """The version, as far as the place of the program tells it: npm's package, or a file that is named so."""
    real = program.resolve()
    if found := _VERSION.fullmatch(real.name):
        return _version_in(found[0])
    for folder in real.parents[:2]:
        with suppress(OSError, ValueError, AttributeError):
            package = json.loads((folder / "package.json").read_bytes())
            if str(package.get("name", "")).startswith("@anthropic-ai/claude-code"):
                return _version_in(str(package.get("version", "")))
    return None
