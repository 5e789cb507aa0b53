"""Codex on the runtime port: how a turn is started, and how its end is judged."""

from __future__ import annotations

import hashlib
import re
import signal
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent_mailer.disk import read_regular
from agent_mailer.names import printable
from agent_mailer.outcomes import NOT_EXECUTED, Exit, Judgement, Outcome
from agent_mailer.process.output import LINE_LIMIT, tail_text
from agent_mailer.runtimes.codex.asking import SINCE, asking_words, heard, trial
from agent_mailer.runtimes.codex.failures import classify_stderr, is_thread_id, is_usage_limit, reset_time
from agent_mailer.runtimes.codex.lines import agent_message, events_of
from agent_mailer.runtimes.codex.policy import Ground, Policy, policy, read_trial, toml, trial_words
from agent_mailer.runtimes.codex.program import find_codex, version_of
from agent_mailer.runtimes.port import (
    ASKS,
    FENCE,
    FINAL_TEXT_LIMIT,
    LOGIN,
    Counted,
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
    ToolServer,
    TurnRequest,
)
from agent_mailer.runtimes.programs import how_it_crashed, last_words, turn_variables

TESTED = (0, 170, 0)
"""The oldest version to be used: the ones before lost the sandbox of threads that a thread starts."""

SERVER = "agent_mailer"

_BAD_ARGUMENTS = 2
_PANIC = 101
_STARTUP_SECONDS = 30
_STDERR_LOOK = 16 * 1024
_CONFIG_LIMIT = 1024 * 1024
_ERROR = re.compile(r"^error\b.*(?:\n.*\S.*)*", re.IGNORECASE | re.MULTILINE)
_VERSION = re.compile(r"codex-cli (\d+)\.(\d+)\.(\d+)")
_ECHO = "/bin/echo"
_OWN_KEY = "CODEX_API_KEY"
_ID_LENGTH = len("01234567-89ab-cdef-0123-456789abcdef")
_KEYS = (_OWN_KEY, "OPENAI_API_KEY")
_PROVIDER_WORDS = ("model_provider", "model_providers.", "openai_base_url", "profile")

# Nothing goes out but to the model: no metrics (their sending delays the end), no plugin and update checks. The agent's
# commands run in the environment that we made; a login shell would put the system's PATH in place of it. And an
# unreachable provider is an error after a few tries instead of something to be waited for without end.
_QUIET = (
    "-c",
    "analytics.enabled=false",
    "-c",
    "check_for_update_on_startup=false",
    "-c",
    "allow_login_shell=false",
    # Names with KEY, SECRET or TOKEN stay with codex, which needs them; its commands do not.
    "-c",
    "shell_environment_policy.ignore_default_excludes=false",
    # Not by --disable: where the extra arguments have one, too, those before `exec` count for nothing.
    "-c",
    "features.plugins=false",
    "-c",
    "features.unbounded_connection_retries=false",
)

# In CODEX_HOME: what codex obeys in every session of that person.
_SETTINGS = ("config.toml", "AGENTS.md", "hooks.json", "rules", "prompts")
_KEPT = ("packages", "bin", "skills", "plugins", "agents")
"""Programs that others start, and what else each session obeys."""
_FRESH = ("tmp", "shell_snapshots")
"""Programs that each session starts by name, and what it has its shell read before a command."""


class CodexRuntime:
    """`base_env` is what `build_env` made; `home` the folder of codex's settings, None = the one it finds itself;
    `asks`: a person is asked before some calls.
    """

    def __init__(
        self,
        command: str,
        base_env: Mapping[str, str],
        *,
        mode: PermissionMode,
        model: str = "",
        extra_args: Sequence[str] = (),
        home: Path | None = None,
        reach: Reach | None = None,
        asks: bool = False,
    ) -> None:
        self._command = command
        self._mode = mode
        self._model = model
        self._extra = tuple(extra_args)
        self._reach = reach or Reach()
        self._env = dict(base_env)
        if home is not None:
            self._env["CODEX_HOME"] = str(home)
        self._traits = RuntimeTraits(
            name="codex",
            has_events=True,
            resumes=True,
            stop_signal=signal.SIGINT,
            account=self._account(),
            home=ProgramHome(self._home(), _SETTINGS, kept=_KEPT, fresh=_FRESH),
            remote=True,
            own_sandbox=True,
            asks=asks,
            counts=frozenset({Counted.TOKENS}),
        )

    @property
    def traits(self) -> RuntimeTraits:
        return self._traits

    def command(self, request: TurnRequest) -> Launch:
        """Raises RuntimeMissing. The policy is said on every call: a session remembers none of it."""
        program = find_codex(self._command, request.workdir, self._env)
        self._require_home()
        env = self._env | turn_variables(request)
        ground = Ground(
            request.workdir,
            request.project_dir,
            request.turn_dir / "outbox",
            confined=request.confined,
            walled=not request.own_sandbox,
        )
        words = [str(program), *_QUIET, "exec", *self._policy(program, ground).words, "-C", str(request.workdir)]
        if request.project_dir is not None:
            words += ["--add-dir", str(request.project_dir)]
        if self._model:
            words += ["-m", self._model]
        words += ["-c", f"mcp_servers.{SERVER}={_server_table(request)}", *self._extra]
        if request.asking is not None:
            refuses = self._mode is PermissionMode.ACCEPT_EDITS and request.own_sandbox
            able = (version_of(program) or SINCE) >= SINCE
            words += asking_words(request.asking, self._extra, refuses=refuses and able and request.asking.refusals)
        flags = ("--json", "--skip-git-repo-check")
        if request.session_id is None:
            words += [*flags, "-"]
        else:
            env["AGENT_MAILER_SESSION_ID"] = request.session_id
            words += ["resume", *flags, _as_thread_id(request.session_id), "-"]
        return Launch(tuple(words), env, request.workdir)

    def parse(self, line: bytes) -> Sequence[Event]:
        return events_of(line, self._model)

    def judge(self, evidence: Evidence) -> Judgement:
        result = evidence.observation.result
        if result is not None:
            return self._judge_result(result, evidence)
        return _judge_without_result(evidence)

    def probes(self, workdir: Path) -> Sequence[Probe]:
        """Raises RuntimeMissing."""
        program = str(find_codex(self._command, workdir, self._env))
        self._require_home()
        found = [
            Probe("version", (program, "--version"), self._env, workdir),
            Probe(LOGIN, (program, "login", "status"), self._env, workdir),
            self._trial(program, workdir),
        ]
        if self._traits.asks:
            found.append(Probe(ASKS, trial(program, _QUIET, self._extra, workdir), self._env, workdir))
        return tuple(found)

    def read_probe(self, probe: Probe, status: int, output: str) -> Finding:
        if probe.name == FENCE:
            return _read_fence(probe, output)
        if probe.name == ASKS:
            return _read_asks(probe, output)
        return self._read_login(status, output) if probe.name == LOGIN else _read_version(status, output)

    def kept_sessions(self) -> frozenset[str] | None:
        names = (path.stem for path in self._home().glob("sessions/*/*/*/rollout-*.jsonl"))
        return frozenset(name[-_ID_LENGTH:] for name in names)

    def _policy(self, program: Path, ground: Ground) -> Policy:
        version = version_of(program)
        return policy(self._mode, self._reach, ground, self._env, self._home(), self._extra, version)

    def _trial(self, program: str, workdir: Path) -> Probe:
        """Codex's sandbox with the profile of a turn, asked what it would let through; or why there is none."""
        ground = Ground(workdir)
        chosen = self._policy(Path(program), ground)
        if not chosen.profile:
            return Probe(FENCE, (_ECHO, chosen.why_not), self._env, workdir)
        look = trial_words(self._mode, self._reach, ground, self._env, self._home())
        return Probe(FENCE, (program, "sandbox", *chosen.words, *look), self._env, workdir)

    def _judge_result(self, result: Result, evidence: Evidence) -> Judgement:
        if result.outcome.settles:
            text = result.text or _last_message(evidence.stdout)
            seen = evidence.observation.session_id
            lost = evidence.resume is not None and seen is not None and seen != evidence.resume
            detail = (
                f"codex began the session {seen} instead of going on in {evidence.resume}" if lost else result.detail
            )
            if self._mode is PermissionMode.PLAN and result.outcome is Outcome.DONE and not text.strip():
                # Its sender must not wait for an answer that never comes.
                return Judgement(Outcome.BLOCKED, detail or "codex gave no answer; in plan mode it may only read")
            return Judgement(result.outcome, printable(detail, 300), text)
        outcome, detail, retry_at = result.outcome, result.detail, result.retry_at
        if outcome is Outcome.SESSION_LOST and evidence.resume is None:
            outcome = Outcome.FAILED
        if outcome is Outcome.LIMITED and retry_at is None and is_usage_limit(detail):
            retry_at = self._reset_time(evidence, detail)
        return Judgement(outcome, detail, result.text, retry_at)

    def _reset_time(self, evidence: Evidence, message: str) -> float | None:
        try:
            seen = evidence.stdout.stat().st_mtime
        except OSError:
            return None
        thread_id = evidence.observation.session_id or evidence.resume
        return reset_time(self._home(), thread_id, message, seen=seen, zone=self._env.get("TZ"))

    def _home(self) -> Path:
        named = self._env.get("CODEX_HOME")
        return Path(named) if named else Path(self._env.get("HOME") or "/") / ".codex"

    def _require_home(self) -> None:
        """Raises RuntimeMissing for a home that codex would refuse, or that could be anybody's."""
        named = self._env.get("CODEX_HOME")
        if named and not Path(named).is_dir():
            raise RuntimeMissing(
                "codex_home_missing",
                f"codex's folder {named} (config_home) does not exist",
                f"mkdir -m 700 {named} && CODEX_HOME={named} codex login",
            )
        if not named and not self._env.get("HOME"):
            raise RuntimeMissing(
                "home_unset",
                "HOME is not set, so codex has no folder for its login and sessions",
                "agent-mailer config set config_home FOLDER, or set HOME",
            )

    def _account(self) -> str:
        """Who pays: the folder with the login, the keys that are passed, and another provider that is named."""
        keys = [f"{name}={self._env[name]}" for name in _KEYS if self._env.get(name)]
        parts = ["codex", str(self._home()), *(keys or ["login"]), *self._provider_words()]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def _provider_words(self) -> list[str]:
        return [word for word in self._extra if word.removeprefix("--config=").startswith(_PROVIDER_WORDS)]

    def _read_login(self, status: int, output: str) -> Finding:
        said = printable(_last_line(output) or "no answer", 200)
        if status == 0:
            return Finding(ok=True, text=said)
        passed = [name for name in _KEYS if self._env.get(name)]
        if self._provider_words() or _names_provider(self._home() / "config.toml"):
            return Finding(ok=True, text=f"{said}; the model provider in codex's settings has a key of its own")
        if _OWN_KEY in passed:
            return Finding(ok=True, text=f"{said}; {_OWN_KEY} is passed")
        home = self._env.get("CODEX_HOME")
        login = f"CODEX_HOME={home} codex login" if home else "codex login"
        text = f"{said}, and codex's own provider takes no key but {_OWN_KEY}" if passed else said
        return Finding(ok=False, text=text, fix=f"{login}, or name {_OWN_KEY} in [env] pass")


def _judge_without_result(evidence: Evidence) -> Judgement:
    end, trouble = evidence.exit, evidence.observation.trouble
    if end.status is None:
        return Judgement(Outcome.CRASHED, how_it_crashed(end))
    if end.status == _PANIC:
        return Judgement(Outcome.CRASHED, _error_line(evidence.stderr) or "codex broke down")
    if end == Exit(status=0) and trouble is None:
        return Judgement(Outcome.FAILED, "codex ended without a result")
    words = _error_line(evidence.stderr)
    if end.status in NOT_EXECUTED:
        return Judgement(Outcome.UNAVAILABLE, words or "codex could not be executed")
    if end.status == _BAD_ARGUMENTS:
        detail = f"codex refused its command line: {words}; look at extra_args, model and the version of codex"
        return Judgement(Outcome.UNAVAILABLE, printable(detail, 500))
    if trouble is not None:
        return Judgement(trouble.outcome, trouble.detail, retry_at=trouble.retry_at)
    failure = classify_stderr(words)
    if evidence.observation.session_id is not None:
        # A session was there, so the command line and the settings were in order.
        return Judgement(Outcome.FAILED, words or f"codex ended without a result (exit status {end.status})")
    if failure.outcome is Outcome.SESSION_LOST and evidence.resume is None:
        return Judgement(Outcome.FAILED, failure.detail)
    return Judgement(failure.outcome, failure.detail)


def _server_table(request: TurnRequest) -> str:
    """The mail tools as one TOML value: without them there is no turn, and no call of them needs to be asked for."""
    tools: ToolServer = request.tools
    # Codex hides its environment from its servers: the turn's id, too, by which its processes are found at the end.
    env = {**tools.env, "AGENT_MAILER_TURN_ID": request.turn_id}
    fields = {
        "command": toml(tools.argv[0]),
        "args": "[" + ",".join(map(toml, tools.argv[1:])) + "]",
        "env": "{" + ",".join(f"{toml(name)}={toml(value)}" for name, value in env.items()) + "}",
        "required": "true",
        "default_tools_approval_mode": toml("approve"),
        "startup_timeout_sec": str(_STARTUP_SECONDS),
    }
    return "{" + ",".join(f"{name}={value}" for name, value in fields.items()) + "}"


def _as_thread_id(session_id: str) -> str:
    """Codex begins a new thread without a word for what is no UUID; for one that it does not know it says so."""
    return session_id if is_thread_id(session_id) else str(uuid.uuid5(uuid.NAMESPACE_OID, session_id))


def _last_message(stdout: Path) -> str:
    """The agent's last message: near the end of its output, unless it is very long itself."""
    for look in (2 * FINAL_TEXT_LIMIT, LINE_LIMIT + FINAL_TEXT_LIMIT):
        for line in reversed(tail_text(stdout, look).split("\n")):
            said = agent_message(line.encode("utf-8", "surrogateescape")) if "agent_message" in line else None
            if said is not None:
                return said.rstrip()
    return ""


def _error_line(stderr: Path) -> str:
    """The words with which codex says why it ends, as one line; warnings and hints may stand around them."""
    found = _ERROR.search(tail_text(stderr, _STDERR_LOOK))
    return printable(" ".join(found.group().split()), 500) if found else last_words(stderr)


def _read_version(status: int, output: str) -> Finding:
    found = _VERSION.search(output)
    if status or found is None:
        said = printable(_last_line(output) or "nothing", 200)
        return Finding(
            ok=False, text=f"codex --version ended with {status}: {said}", fix="npm install -g @openai/codex"
        )
    version = ".".join(found.groups())
    if tuple(map(int, found.groups())) < TESTED:
        tested = ".".join(map(str, TESTED))
        return Finding(
            ok=False,
            text=f"codex {version} is older than {tested}, which this is made for",
            fix="npm install -g @openai/codex@latest",
        )
    return Finding(ok=True, text=f"codex {version}")


def _read_fence(probe: Probe, output: str) -> Finding:
    if probe.argv[0] == _ECHO:
        return Finding(ok=True, text=f"codex's sandbox without a profile: {output.strip()}")
    wrong = read_trial(output)
    if wrong is None:
        said = printable(_last_line(output) or "nothing", 300)
        return Finding(
            ok=False, text=f"codex's sandbox does not start: {said}", fix="npm install -g @openai/codex@latest"
        )
    if wrong:
        fix = "npm install -g @openai/codex@latest, or agent-mailer config set permission_mode plan"
        opens = any(line.startswith("it can ") for line in wrong)
        return Finding(ok=False, text=f"in codex's sandbox {printable('; '.join(wrong), 300)}", fix=fix, opens=opens)
    return Finding(ok=True, text="codex's sandbox keeps login, configuration and state from the agent")


def _read_asks(probe: Probe, output: str) -> Finding:
    upgrade = "npm install -g @openai/codex@latest"
    if not heard(output):
        said = printable(_last_line(output) or "nothing", 200)
        text = f"codex does not ask before it acts, its hooks are not heard (switched off, or not allowed): {said}"
        fix = f"look at extra_args; or {upgrade}; or ask nobody: agent-mailer config set approve.refused false"
        return Finding(ok=False, text=text, fix=fix, opens=True)
    version = version_of(Path(probe.argv[0])) or SINCE
    if version < SINCE:
        text = f"codex {'.'.join(map(str, version))} asks nobody about what its sandbox refuses; it stays refused"
        return Finding(ok=False, text=text, fix=upgrade)
    return Finding(ok=True, text="codex asks a person before what it may not do by itself")


def _names_provider(path: Path) -> bool:
    try:
        return "model_provider" in tomllib.loads(read_regular(path, _CONFIG_LIMIT, follow=True).decode())
    except (OSError, ValueError, RecursionError):
        return False


def _last_line(output: str) -> str:
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
