"""Any command as a runtime: the prompt on stdin or as its last argument, plain text or JSON lines on stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from agent_mailer.approvals import APPROVALS
from agent_mailer.outcomes import NOT_EXECUTED, Judgement, Outcome
from agent_mailer.process.holder import HOLDER
from agent_mailer.process.output import is_readable, tail_text
from agent_mailer.runtimes.own_lines import events_of
from agent_mailer.runtimes.port import (
    FINAL_TEXT_LIMIT,
    CommandOutput,
    Counted,
    Event,
    Evidence,
    Finding,
    Launch,
    Probe,
    RuntimeTraits,
    TurnRequest,
)
from agent_mailer.runtimes.programs import (
    find_program,
    how_it_crashed,
    last_words,
    turn_variables,
    with_interpreter,
)

_MARK_ROOM = 200

_HAND_OVER = 'prompt=$(cat) && exec "$@" "$prompt"'
"""What gives a program its prompt as the last argument: the words before it are the shell's own arguments, so that
nothing in them or in the prompt is ever read as shell."""


class Calling(msgspec.Struct, frozen=True):
    """How a program is called: `name` is the runtime's, `key` the configuration's that names the program."""

    name: str = "command"
    key: str = "command"
    prompt_as_argument: bool = False


INFINITI = Calling("infiniti", "infiniti_command", prompt_as_argument=True)


class CommandRuntime:
    """`command` is the program and its words; `base_env` what `build_env` made. `keeps_output`: it stays for days."""

    def __init__(
        self,
        command: Sequence[str],
        output: CommandOutput,
        base_env: Mapping[str, str],
        calling: Calling | None = None,
        *,
        keeps_output: bool = True,
    ) -> None:
        self._command = tuple(command)
        self._output = output
        self._base_env = dict(base_env)
        self._calling = calling or Calling()
        self._keeps_output = keeps_output

    @property
    def traits(self) -> RuntimeTraits:
        typed = self._output is CommandOutput.JSONL
        counts = frozenset(Counted) if typed else frozenset[Counted]()
        return RuntimeTraits(name=self._calling.name, has_events=typed, resumes=typed, counts=counts)

    def command(self, request: TurnRequest) -> Launch:
        """Raises RuntimeMissing."""
        argv = (str(self._program(request.workdir)), *self._command[1:])
        env = self._base_env | turn_variables(request)
        if request.session_id is not None and self.traits.resumes:
            env["AGENT_MAILER_SESSION_ID"] = request.session_id
        if request.asking is not None:
            env["AGENT_MAILER_APPROVALS"] = str(request.turn_dir / APPROVALS)
        if self._calling.prompt_as_argument:
            argv = ("/bin/sh", "-c", _HAND_OVER, self._calling.name, *argv)
        return Launch(argv=argv, env=env, cwd=request.workdir)

    def _program(self, workdir: Path) -> Path:
        name = self._command[0] if self._command else ""
        return with_interpreter(find_program(name, workdir, self._base_env, self._calling.key), workdir, self._base_env)

    def parse(self, line: bytes) -> Sequence[Event]:
        if self._output is CommandOutput.TEXT:
            return ()
        return events_of(line)

    def probes(self, workdir: Path) -> Sequence[Probe]:
        """Nothing but the program itself is known of a command."""
        self._program(workdir)
        return ()

    def read_probe(self, probe: Probe, status: int, output: str) -> Finding:
        raise NotImplementedError(f"a command has no probe {probe.name} ({status}, {output})")

    def kept_sessions(self) -> frozenset[str] | None:
        return None

    def judge(self, evidence: Evidence) -> Judgement:
        result = evidence.observation.result
        if result is not None:
            return Judgement(result.outcome, result.detail, result.text, result.retry_at)
        if evidence.exit.status is None:
            return Judgement(Outcome.CRASHED, how_it_crashed(evidence.exit))
        if evidence.exit.status:
            words = last_words(evidence.stderr)
            if evidence.exit.status in NOT_EXECUTED and words.startswith(f"{HOLDER}:"):
                # A moved interpreter, say: no message is to blame for it.
                return Judgement(
                    Outcome.UNAVAILABLE, f"the command cannot be executed: {words.rpartition('exec: ')[2]}"
                )
            return Judgement(Outcome.FAILED, words or f"exit status {evidence.exit.status}")
        if self._output is CommandOutput.JSONL:
            return Judgement(Outcome.FAILED, "ended without a result")
        if not is_readable(evidence.stdout):
            return Judgement(Outcome.FAILED, "its answer cannot be read: `stdout` of its turn is no file any more")
        return Judgement(Outcome.DONE, final_text=_final_words(evidence.stdout, kept=self._keeps_output))


def _final_words(stdout: Path, *, kept: bool) -> str:
    """The end of the output, with a line that says so where it was more."""
    words = tail_text(stdout, FINAL_TEXT_LIMIT).rstrip()
    if len(words.encode("utf-8", "replace")) < FINAL_TEXT_LIMIT - 3 or stdout.stat().st_size <= FINAL_TEXT_LIMIT:
        return words
    end = tail_text(stdout, FINAL_TEXT_LIMIT - _MARK_ROOM).rstrip()
    rest = "the whole is in the output of this turn" if kept else "the rest is not kept (keep_transcripts = 0)"
    return f"[cut: the last of {stdout.stat().st_size} bytes; {rest}]\n\n{end}"
