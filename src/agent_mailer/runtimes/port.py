"""The runtime port: what a turn asks of an agent program, the events it prints, and how its end is judged."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import msgspec

from agent_mailer.approvals.calls import Call
from agent_mailer.choices import CommandOutput as CommandOutput  # noqa: PLC0414 - of this port, where most look for it
from agent_mailer.choices import PermissionMode as PermissionMode  # noqa: PLC0414 - the same
from agent_mailer.errors import UnavailableFault
from agent_mailer.names import is_session_id
from agent_mailer.outcomes import FINAL_TEXT_LIMIT as FINAL_TEXT_LIMIT  # noqa: PLC0414 - of this port, where most look for it
from agent_mailer.outcomes import MOST_OPEN, Exit, Judgement, Outcome, StopReason
from agent_mailer.outcomes import PROGRESS_LIMIT as PROGRESS_LIMIT  # noqa: PLC0414 - the same


class RuntimeMissing(UnavailableFault):
    """The agent program is not there or cannot be executed."""


class ToolServer(msgspec.Struct, frozen=True):
    """How the agent program starts the mail tools: argv, and the environment they need beyond the program's own."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


class Reach(msgspec.Struct, frozen=True):
    """What of ours an agent's tools may not touch, in every mode: absolute paths, whether they exist or not.

    `hidden` they never read; `kept` they never write, but for the turn's outbox.
    """

    hidden: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()


class Asking(msgspec.Struct, frozen=True):
    """How the program asks before a tool of its own runs: `hook` is an argv that reads its JSON and says a word.

    It is asked before the tools that `tools` names (names and globs), and in place of the program's own refusal of what
    its mode does not allow; which of those are asked about the hook knows.
    """

    hook: tuple[str, ...]
    tools: tuple[str, ...] = ()
    refusals: bool = True
    """It is asked in place of a refusal, too."""
    around: tuple[str, ...] = ()
    """What is run before and after each shell command of the program's; it keeps none from anything. Empty: nothing."""


class TurnRequest(msgspec.Struct, frozen=True):
    """What one turn needs to be started. `session_id` is set where a session is to be resumed.

    `message_id`, `thread_id` and `sender` are the words shown to the agent: already mapped by `names`; so are those of
    `batch`, the further messages of a turn that is handed several.
    """

    turn_id: str
    turn_dir: Path
    workdir: Path
    project_dir: Path | None
    message_id: str
    thread_id: str
    sender: str
    attempt: int
    session_id: str | None
    tools: ToolServer
    confined: bool = False
    """The whole turn is confined by us: the program itself does not see what is ours, and `/tmp` is the turn's own."""
    own_sandbox: bool = True
    """Not where that is one in which the program's own sandbox cannot start."""
    batch: tuple[str, ...] = ()
    asking: Asking | None = None


class Launch(msgspec.Struct, frozen=True):
    """A process to start: argv with an absolute program, its whole environment, its folder.

    `session_id` is set where the adapter has chosen the id of a new session itself, `program` where argv starts it
    through another one.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    session_id: str | None = None
    program: str = ""


class SessionStarted(msgspec.Struct, frozen=True):
    """`model`: the one that answers, as the program calls it; empty where it does not say."""

    session_id: str
    model: str = ""


class Progress(msgspec.Struct, frozen=True):
    """One line for people about what the agent is doing. Untrusted text."""

    text: str


class ToolStarted(msgspec.Struct, frozen=True):
    tool_id: str
    name: str
    detail: str = ""


class ToolEnded(msgspec.Struct, frozen=True):
    tool_id: str


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Tokens and US dollars: the sum so far of the turn or, with `of_session`, of its whole session."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    of_session: bool = False

    def plus(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_usd + other.cost_usd,
        )

    def since(self, before: Usage) -> Usage:
        """What came after `before`, a smaller sum of the same session; never negative."""
        return Usage(
            max(0, self.input_tokens - before.input_tokens),
            max(0, self.output_tokens - before.output_tokens),
            max(0.0, self.cost_usd - before.cost_usd),
        )


class Trouble(msgspec.Struct, frozen=True):
    """A typed complaint of the runtime that is not the end: a limit, a refused login, a lost session.

    `outcome` is what the turn ends as if no result follows; `retry_at` is seconds since the epoch.
    """

    outcome: Outcome
    detail: str
    retry_at: float | None = None


class Doomed(msgspec.Struct, frozen=True):
    """Nothing good can come of this turn any more: it is ended at once, as `outcome`.

    `for_good`: a result that comes in spite of it counts for nothing. `unless_asks`: where the program has shown before
    that it asks, nothing is wrong.
    """

    outcome: Outcome
    detail: str
    for_good: bool = False
    unless_asks: bool = False


class Asks(msgspec.Struct, frozen=True):
    """The program has shown that it asks before it acts (`TurnRequest.asking`): the hook has run, and was heard."""


class Result(msgspec.Struct, frozen=True):
    """The runtime's own final word. `asked`: the call that a person is to be asked about, where the outcome is that."""

    outcome: Outcome
    text: str = ""
    detail: str = ""
    retry_at: float | None = None
    asked: Call | None = None


Event = SessionStarted | Progress | ToolStarted | ToolEnded | Usage | Trouble | Doomed | Asks | Result


class Observation(msgspec.Struct):
    """What a turn's events add up to; bounded however much the agent prints."""

    session_id: str | None = None
    model: str = ""
    result: Result | None = None
    trouble: Trouble | None = None
    doomed: Doomed | None = None
    usage: Usage | None = None
    progress: str = ""
    open_tools: dict[str, ToolStarted] = msgspec.field(default_factory=dict)
    events: int = 0
    lines_skipped: int = 0
    asks: bool = False
    worked: bool = False
    """The agent did something: a limit or an outage met later interrupts work, one met before cost nothing."""

    def add(self, event: Event) -> None:
        self.events += 1
        match event:
            case SessionStarted(session_id=session_id, model=model) if is_session_id(session_id):
                self.session_id = session_id
                self.model = model or self.model
            case Progress(text=text):
                self.progress = text
                self.worked = True
            case ToolStarted():
                if len(self.open_tools) < MOST_OPEN or event.tool_id in self.open_tools:
                    self.open_tools[event.tool_id] = event
                self.worked = True
            case ToolEnded(tool_id=tool_id):
                self.open_tools.pop(tool_id, None)
            case Usage():
                self.usage = event
            case Trouble():
                self.trouble = event
            case Asks():
                self.asks = True
            case Doomed(unless_asks=True) if self.asks:
                pass
            case Doomed():
                self.doomed = event if event.for_good else self.doomed or event
            case Result():
                self.result = event


class Evidence(msgspec.Struct, frozen=True):
    """All that is known of a turn when it has ended. `stopped` is set where we ended it.

    `resume` is the session id the turn was to go on in.
    """

    observation: Observation
    exit: Exit
    stdout: Path
    stderr: Path
    resume: str | None
    stopped: StopReason | None = None


class ProgramHome(msgspec.Struct, frozen=True):
    """The folder in which a program keeps its login and its sessions, and must write.

    `settings`: what in it is a person's to change, since it works on beyond the turn; `kept`: the same, where it is
    there; `hidden`: what opens a person's other programs; `fresh`: folders of files that every running program of the
    kind executes, of which a turn has its own. `temporary`: the variable with which the program is told where its
    temporary files go, where TMPDIR is not enough. `more`: further folders of it that it must write.
    """

    path: Path
    settings: tuple[str, ...] = ()
    temporary: str = ""
    kept: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    more: tuple[Path, ...] = ()

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.path, *self.more)


class Counted(StrEnum):
    """What a program can tell of what its turns took. Turns and time are counted of every one."""

    TOKENS = "tokens"
    DOLLARS = "dollars"


class RuntimeTraits(msgspec.Struct, frozen=True):
    """What the engine needs to know of a runtime.

    `has_events`: stdout carries typed events, so that silence means something (first-output and silence clocks run);
    `resumes`: a session id given to `command` is honoured. `stop_signal` asks the program to leave and to take its
    tools along. `account` names, without revealing it, the account that limits and logins belong to; None = unknown.
    `home`: what a turn must be able to write beside the workdir; None = nothing. `remote`: its model is elsewhere.
    `own_sandbox`: it holds its tools by one; `asks`: a person is asked before some of its calls. Where either is so the
    watcher asks the probe FENCE before the first turn of a program, and of one that has changed. `counts`: what limits
    of anything else hold nothing of.
    """

    name: str
    has_events: bool
    resumes: bool
    stop_signal: int = signal.SIGTERM
    account: str | None = None
    home: ProgramHome | None = None
    remote: bool = False
    own_sandbox: bool = False
    asks: bool = False
    counts: frozenset[Counted] = frozenset(Counted)


LOGIN: Final = "login"
"""The name of the probe that tells whether there is a login."""

FENCE: Final = "fence"
"""The name of the probe that tries what a turn may use and touch, before a turn does."""


ASKS: Final = "asks"
"""The name of the probe that tries whether a person is asked, where the one above does not show it."""


class Probe(msgspec.Struct, frozen=True):
    """A quick command that tells something of the program without a model: its version, its login."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path


class Finding(msgspec.Struct, frozen=True):
    """What a probe's answer means: `ok`, one line for people, and the command that mends it.

    `opens`: a turn could touch what it must not; none is started.
    """

    ok: bool
    text: str
    fix: str = ""
    opens: bool = False


class Runtime(Protocol):
    """One agent program. Pure but for looking at the file system: only `process` starts anything."""

    @property
    def traits(self) -> RuntimeTraits: ...

    def command(self, request: TurnRequest) -> Launch:
        """What to start; stdin will be the prompt. Raises RuntimeMissing."""

    def parse(self, line: bytes) -> Sequence[Event]:
        """The events of one line of stdout, without its line end; nothing for what is unknown. Never raises."""

    def probes(self, workdir: Path) -> Sequence[Probe]:
        """What `doctor` may ask the program. Raises RuntimeMissing."""

    def read_probe(self, probe: Probe, status: int, output: str) -> Finding:
        """What the answer to one of `probes` means; `output` is stdout and stderr together."""

    def kept_sessions(self) -> frozenset[str] | None:
        """Ids of the sessions that the program still has on disk; None = it cannot be told. Raises OSError."""

    def judge(self, evidence: Evidence) -> Judgement:
        """The turn's outcome. The engine has dealt with `evidence.stopped` reasons other than FINISHED already.

        Raises OSError where the system has no descriptor left: it is asked again.
        """
