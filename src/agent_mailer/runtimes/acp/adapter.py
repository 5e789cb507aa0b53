"""Any agent that is described, as a runtime: what is started, with which environment, and how its end is judged."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template

import msgspec

from agent_mailer.errors import ConfigFault
from agent_mailer.names import printable
from agent_mailer.outcomes import NOT_EXECUTED, Judgement, Outcome
from agent_mailer.runtimes.acp.descriptor import ANY_KIND, SERVER, Descriptor, MailBy, Mode, UsageOf
from agent_mailer.runtimes.acp.orders import Failure, Orders
from agent_mailer.runtimes.acp.shelf import Known
from agent_mailer.runtimes.acp.verdict import of_failure
from agent_mailer.runtimes.own_lines import events_of
from agent_mailer.runtimes.port import (
    Counted,
    Event,
    Evidence,
    Finding,
    Launch,
    PermissionMode,
    Probe,
    ProgramHome,
    Reach,
    RuntimeMissing,
    RuntimeTraits,
    TurnRequest,
)
from agent_mailer.runtimes.programs import (
    as_uuid,
    find_program,
    how_it_crashed,
    last_words,
    turn_variables,
    with_interpreter,
)
from agent_mailer.turn_tools import ISOLATED

BRIDGE = "agent_mailer.runtimes.acp.bridge"
_KEY = "agent"
_LEAST_KEY = 8
"""Characters of what can be a key; a shorter value may be a word."""
_VERSION = re.compile(r"(?<![0-9.])v?([0-9]+(?:\.[0-9]+)+)")


class AgentOptions(msgspec.Struct, frozen=True):
    """What the user has chosen. `reach.kept` is never changed where the agent asks before it does."""

    mode: PermissionMode
    model: str = ""
    extra_args: tuple[str, ...] = ()
    reach: Reach = Reach()


class AgentRuntime:
    """`base_env` is what `build_env` made. Raises ConfigFault for a mode that the agent does not have, or that a
    variable of the user's would take away.
    """

    def __init__(self, known: Known, options: AgentOptions, base_env: Mapping[str, str]) -> None:
        self._known = known
        self._options = options
        self._mode = _mode(known, options.mode)
        _require_its_variables(known, self._mode, options.mode, base_env)
        # What a user sets with [env] wins.
        self._env = {**known.descriptor.env, **self._mode.env, **base_env}

    @property
    def descriptor(self) -> Descriptor:
        return self._known.descriptor

    @property
    def title(self) -> str:
        return self.descriptor.title or self._known.name

    @property
    def traits(self) -> RuntimeTraits:
        return RuntimeTraits(
            name=f"acp-{self._known.name}",
            has_events=True,
            resumes=self.descriptor.resume != "never",
            account=self._account(),
            home=self._home(),
            remote=True,
            counts=frozenset({Counted.TOKENS} if self.descriptor.usage is not UsageOf.NONE else ()),
        )

    def command(self, request: TurnRequest) -> Launch:
        """Raises RuntimeMissing, also where the project has what would take the mode away."""
        self._require_no_strange_code(request.workdir)
        env = self._env | turn_variables(request)
        if request.session_id is not None:
            env["AGENT_MAILER_SESSION_ID"] = request.session_id
        return self._bridged(request, env)

    def _bridged(self, request: TurnRequest, env: Mapping[str, str]) -> Launch:
        descriptor, mode, reach = self.descriptor, self._mode, self._options.reach
        headless = descriptor.headless
        if headless is not None and request.asking is not None:
            raise RuntimeMissing(
                "asks_nobody",
                f"{self.title} asks nobody in its headless mode, and here a person is to be asked (approve)",
                "agent-mailer config edit",
            )
        if headless is not None:
            servers = _servers(request) if descriptor.mail is MailBy.MCP else ""
            env = {**env, **{name: _filled(word, servers=servers) for name, word in headless.server_env.items()}}
        roots = [request.workdir, *([] if request.project_dir is None else [request.project_dir])]
        orders = Orders(
            argv=tuple(self._words(request)),
            title=self.title,
            workdir=str(request.workdir),
            turn_dir=str(request.turn_dir),
            server=request.tools.argv,
            server_env=request.tools.env,
            session=request.session_id,
            session_mode=mode.session_mode,
            allow_kinds=mode.allow_kinds,
            roots=tuple(map(str, roots)),
            kept=tuple(map(str, reach.kept)),
            named=descriptor.named,
            mail=descriptor.mail,
            asks=request.asking is not None,
            usage=descriptor.usage,
            errors=descriptor.errors,
            answers=descriptor.answers,
            silent_for=descriptor.silent_for,
            leaves_in=descriptor.leaves_in,
            # Python sets it by itself where the locale is none.
            drop=() if "LC_CTYPE" in env else ("LC_CTYPE",),
            lines=headless.lines if headless is not None else (),
        )
        argv = (sys.executable, ISOLATED, "-m", BRIDGE, msgspec.json.encode(orders).decode())
        return Launch(argv=argv, env=env, cwd=request.workdir, program=orders.argv[0])

    def _require_no_strange_code(self, workdir: Path) -> None:
        """In the folder it works in, and above it up to the home folder: that one's is its user's own."""
        if ANY_KIND in self._mode.allow_kinds:
            return
        home = Path(self._env.get("HOME", "/"))
        for folder in (workdir, *workdir.parents):
            if folder == home:
                return
            for name in self.descriptor.executes:
                if os.path.lexists(folder / name):
                    raise RuntimeMissing(
                        "strange_code",
                        f"{self.title} would run what {folder / name} says in every mode, and an agent may have "
                        f"written it: permission_mode {self._options.mode.value} starts no turn beside it",
                        f"read it, then move it away, or into {home}",
                    )

    def _words(self, request: TurnRequest) -> Iterator[str]:
        descriptor, options = self.descriptor, self._options
        yield str(self._find(request.workdir))
        yield from descriptor.argv[1:]
        yield from self._mode.args
        if options.model:
            yield from (_filled(word, model=options.model) for word in descriptor.model)
        yield from options.extra_args
        if descriptor.headless is not None:
            servers = _servers(request)
            yield from (_filled(word, servers=servers) for word in descriptor.headless.server)
            if request.session_id is not None:
                session = as_uuid(request.session_id)
                yield from (_filled(word, session=session) for word in descriptor.headless.resume)

    def _find(self, workdir: Path) -> Path:
        """Raises RuntimeMissing that names how the agent is installed."""
        try:
            found = find_program(self.descriptor.argv[0], workdir, self._env, _KEY)
        except RuntimeMissing as missing:
            if missing.code != "runtime_missing" or not self.descriptor.install:
                raise
            raise RuntimeMissing(missing.code, missing.message, self.descriptor.install) from missing
        return with_interpreter(found, workdir, self._env)

    def parse(self, line: bytes) -> Sequence[Event]:
        return events_of(line)

    def probes(self, workdir: Path) -> Sequence[Probe]:
        """Raises RuntimeMissing."""
        program = str(self._find(workdir))
        asked = [Probe("version", (program, *self.descriptor.version), self._env, workdir)]
        if self.descriptor.node:
            asked.append(Probe("version", ("node", "--version"), self._env, workdir))
        return asked

    def read_probe(self, probe: Probe, status: int, output: str) -> Finding:
        found = _VERSION.search(output)
        if probe.argv == ("node", "--version"):
            return self._node(found, output)
        if status or found is None:
            said = printable(output.strip(), 200) or f"exit status {status}"
            return Finding(
                ok=False, text=f"{self.title} does not tell its version: {said}", fix=self.descriptor.install
            )
        return Finding(ok=True, text=f"{self.title} {found[1]}")

    def _node(self, found: re.Match[str] | None, output: str) -> Finding:
        least = self.descriptor.node
        if found is None:
            said = printable(output.strip(), 200)
            return Finding(ok=False, text=f"node does not tell its version: {said}", fix="node --version")
        if int(found[1].partition(".")[0]) >= least:
            return Finding(ok=True, text=f"Node {found[1]}")
        text = (
            f"Node {found[1]}: the current {self.title} needs Node {least} or newer; npm installs an old version "
            "without a word, or one that does not start"
        )
        return Finding(ok=False, text=text, fix=f"install Node {least}, then: {self.descriptor.install}")

    def kept_sessions(self) -> frozenset[str] | None:
        return None

    def judge(self, evidence: Evidence) -> Judgement:
        judged = self._judged(evidence)
        return msgspec.structs.replace(judged, detail=self._without_keys(judged.detail))

    def _without_keys(self, text: str) -> str:
        """A provider's error may repeat the key that it refuses, and the detail goes into logs and notices."""
        for name in self.descriptor.keys:
            if len(value := self._env.get(name, "")) >= _LEAST_KEY:
                text = text.replace(value, f"[{name}]")
        return text

    def _judged(self, evidence: Evidence) -> Judgement:
        result = evidence.observation.result
        if result is not None:
            return Judgement(result.outcome, result.detail, result.text, result.retry_at)
        if evidence.exit.status is None:
            return Judgement(Outcome.CRASHED, how_it_crashed(evidence.exit))
        words = last_words(evidence.stderr)
        if evidence.exit.status in NOT_EXECUTED:
            return Judgement(Outcome.UNAVAILABLE, words or f"{self.title} cannot be executed")
        if self.descriptor.headless is not None and evidence.exit.status:
            failure = Failure(words, evidence.exit.status)
            verdict = of_failure(failure, self.descriptor.errors, resumed=evidence.resume is not None)
            if verdict.outcome is not Outcome.FAILED:
                return Judgement(verdict.outcome, verdict.detail)
        text = f"{self.title} ended with status {evidence.exit.status} and no answer"
        return Judgement(Outcome.FAILED, printable(f"{text}: {words}" if words else text, 300))

    def _home(self) -> ProgramHome | None:
        folders = [_in_home(name, self._env) for name in self.descriptor.home]
        return ProgramHome(folders[0], more=tuple(folders[1:])) if folders else None

    def _account(self) -> str:
        """The same for all who share a limit: one agent, one home, the same keys."""
        parts = [self._known.name, self._env.get("HOME", "")]
        parts += [f"{name}={self._env.get(name, '')}" for name in self.descriptor.keys]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _filled(word: str, **given: str) -> str:
    return Template(word).safe_substitute(given)


def _servers(request: TurnRequest) -> str:
    """Our tools, as the JSON object that names MCP servers."""
    program, *words = request.tools.argv
    server = {"command": program, "args": words, "env": dict(request.tools.env), "trust": True}
    return msgspec.json.encode({"mcpServers": {SERVER: server}}).decode()


def _mode(known: Known, mode: PermissionMode) -> Mode:
    found = known.descriptor.modes.of(mode)
    if found is None:
        raise ConfigFault(
            "no_such_mode",
            f"{known.name} has no permission_mode {mode.value}: {known.where} describes none",
            "agent-mailer config set permission_mode ...",
        )
    return found


def _require_its_variables(known: Known, mode: Mode, name: PermissionMode, given: Mapping[str, str]) -> None:
    """Raises ConfigFault."""
    taken = [variable for variable, value in mode.env.items() if given.get(variable, value) != value]
    if taken and ANY_KIND not in mode.allow_kinds:
        raise ConfigFault(
            "mode_taken_away",
            f"[env] has {', '.join(sorted(taken))}, by which {known.name} is kept to permission_mode {name.value}: "
            "its settings belong into its own file",
            "agent-mailer config edit",
        )


_XDG = {".config": "XDG_CONFIG_HOME", ".local/share": "XDG_DATA_HOME", ".local/state": "XDG_STATE_HOME"}


def _in_home(name: str, env: Mapping[str, str]) -> Path:
    for folder, variable in _XDG.items():
        if env.get(variable) and Path(name).is_relative_to(folder):
            return Path(env[variable]) / Path(name).relative_to(folder)
    return Path(env.get("HOME", "~")) / name
