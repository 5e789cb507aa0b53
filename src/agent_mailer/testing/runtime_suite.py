"""What every runtime adapter has to hold. Subclass it in a test module and give it a `runtime` fixture:

    class TestMyRuntime(RuntimeSuite):
        @pytest.fixture
        def runtime(self, tmp_path): return MyRuntime(...)

Override `request_for` where the adapter needs more than an empty workdir to make a command, and `sample_lines` with
real lines of the program's output: the fuzz tests cut and change those.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from agent_mailer.outcomes import Exit, Judgement, Outcome, StopReason
from agent_mailer.runtimes.port import (
    Event,
    Evidence,
    Observation,
    Result,
    Runtime,
    ToolServer,
    Trouble,
    TurnRequest,
    Usage,
)

_EVENT_TYPES = get_args(Event)
_ROUNDS = 3000
_ODD_LINES = (
    b"",
    b" ",
    b"\0",
    b"\r",
    b"null",
    b"0",
    b"[]",
    b"{}",
    b'"text"',
    b"{",
    b'{"type":',
    b'{"type":null}',
    b'{"type":[]}',
    b'{"type":{}}',
    b'{"type":"an unheard-of type"}',
    b'{"type":"\xff"}',
    b"\xef\xbb\xbf{}",
    b"[" * 100_000,
    b'{"type":' * 50_000,
    b'{"type":"usage","input_tokens":' + b"9" * 5000 + b"}",
    b'{"type":"usage","cost_usd":1e999}',
    b'{"type":"result","retry_at":"9999-99-99"}',
    b'{"type":"result","retry_at":1e300}',
    b'{"type":"result","text":"\\ud800"}',
    b"x" * 1_000_000,
)
_ODD_VALUES: tuple[object, ...] = (None, True, -1, 0, 1.5, 10**30, "", "\0", "x" * 5000, [], [[]], {}, {"type": {}})
_ODD_BYTES = (b"\0", b"\xff", b'"', b"\\", b"{", b"}", b"\n", b"\r", b"null", b"-", b"e9")

EXITS = (
    Exit(),
    Exit(status=0),
    Exit(status=1),
    Exit(status=127),
    Exit(status=255),
    Exit(signal=1),
    Exit(signal=9),
    Exit(signal=15),
    Exit(signal=64),
)


class RuntimeSuite:
    def sample_lines(self) -> list[bytes]:
        return []

    def request_for(self, tmp_path: Path, session_id: str | None = None) -> TurnRequest:
        turn_dir = tmp_path / "turn"
        turn_dir.mkdir(exist_ok=True)
        return TurnRequest(
            turn_id="turn-1",
            turn_dir=turn_dir,
            workdir=tmp_path,
            project_dir=None,
            message_id="message-1",
            thread_id="thread-1",
            sender="somebody",
            attempt=1,
            session_id=session_id,
            tools=ToolServer(("/bin/true",), {}),
        )

    def test_odd_lines_pass_without_a_word(self, runtime: Runtime) -> None:
        for line in _ODD_LINES:
            self._check(runtime, line)
        assert list(runtime.parse(b'{"type":"an unheard-of type","text":"x","id":"y"}')) == []

    def test_parse_takes_any_bytes(self, runtime: Runtime) -> None:
        for line in self._fuzz():
            self._check(runtime, line)

    def test_what_parse_says_can_be_added_up_and_judged(self, runtime: Runtime, tmp_path: Path) -> None:
        observation = Observation()
        for line in (*self.sample_lines(), *self._fuzz()):
            for event in runtime.parse(line):
                observation.add(event)
        for end in EXITS:
            _is_judgement(runtime.judge(_evidence(tmp_path, observation, end)))

    def test_every_end_has_an_outcome(self, runtime: Runtime, tmp_path: Path) -> None:
        observations = [Observation(), Observation(session_id="s", usage=Usage(1, 2, 0.5), events=3, lines_skipped=1)]
        observations += [Observation(result=Result(outcome, "text", "detail"), events=1) for outcome in Outcome]
        observations += [Observation(trouble=Trouble(outcome, "detail", 1.0), events=1) for outcome in Outcome]
        for observation in observations:
            for end in EXITS:
                for resume in (None, "s", "t"):
                    for stopped in (None, StopReason.FINISHED):
                        _is_judgement(
                            runtime.judge(_evidence(tmp_path, observation, end, resume=resume, stopped=stopped))
                        )

    def test_judging_twice_says_the_same(self, runtime: Runtime, tmp_path: Path) -> None:
        for end in EXITS:
            evidence = _evidence(tmp_path, Observation(), end)
            assert runtime.judge(evidence) == runtime.judge(evidence)

    def test_a_result_without_error_is_done_whatever_the_exit(self, runtime: Runtime, tmp_path: Path) -> None:
        if not runtime.traits.has_events:
            return
        observation = Observation(result=Result(Outcome.DONE, "the answer"), events=1)
        for end in EXITS:
            judgement = runtime.judge(_evidence(tmp_path, observation, end, stopped=StopReason.FINISHED))
            assert (judgement.outcome, judgement.final_text) == (Outcome.DONE, "the answer"), end

    def test_a_typed_runtime_without_a_result_is_never_done(self, runtime: Runtime, tmp_path: Path) -> None:
        if not runtime.traits.has_events:
            return
        for end in EXITS:
            assert not runtime.judge(_evidence(tmp_path, Observation(), end)).outcome.settles, end

    def test_no_record_and_a_signal_are_no_success(self, runtime: Runtime, tmp_path: Path) -> None:
        for end in EXITS:
            if end.status is None:
                assert not runtime.judge(_evidence(tmp_path, Observation(), end)).outcome.settles, end

    def test_the_command_is_an_absolute_program_in_the_workdir(self, runtime: Runtime, tmp_path: Path) -> None:
        for session_id in (None, "5e550001-0000-4000-8000-000000000001"):
            request = self.request_for(tmp_path, session_id)
            launch = runtime.command(request)
            assert Path(launch.argv[0]).is_absolute()
            assert launch.cwd == request.workdir
            assert launch.env["AGENT_MAILER_TURN_DIR"] == str(request.turn_dir)
            if session_id is not None and runtime.traits.resumes:
                assert session_id in (*launch.argv, *launch.env.values())

    def test_traits_do_not_change(self, runtime: Runtime) -> None:
        assert runtime.traits == runtime.traits
        assert runtime.traits.name

    def _check(self, runtime: Runtime, line: bytes) -> None:
        for event in runtime.parse(line):
            assert isinstance(event, _EVENT_TYPES), event

    def _fuzz(self) -> Iterator[bytes]:
        """The same lines every time: noise, and samples with bytes cut, changed and fields of other types."""
        chance = random.Random(20)
        samples = self.sample_lines() or [b'{"type":"result","text":"x"}']
        for _ in range(_ROUNDS):
            yield chance.randbytes(chance.randrange(60))
            line = bytearray(chance.choice(samples))
            for _ in range(chance.randrange(1, 4)):
                at = chance.randrange(len(line) + 1)
                line[at : at + chance.randrange(3)] = chance.choice(_ODD_BYTES)
            yield bytes(line)
        for sample in samples:
            yield from (sample[:end] for end in range(min(len(sample), 500)))
            yield from _with_odd_values(sample)


def _with_odd_values(sample: bytes) -> Iterator[bytes]:
    """`sample` with each of its fields, at any depth, replaced by each odd value in turn."""
    try:
        whole = json.loads(sample)
    except ValueError:
        return
    for path in _paths(whole):
        for value in _ODD_VALUES:
            copy = json.loads(sample)
            inner = copy
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            yield json.dumps(copy).encode()


def _paths(value: object, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    entries: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value))
    for key, inner in entries:
        yield (*before, key)
        yield from _paths(inner, (*before, key))


def _evidence(
    folder: Path, observation: Observation, end: Exit, *, resume: str | None = None, stopped: StopReason | None = None
) -> Evidence:
    return Evidence(observation, end, folder / "stdout", folder / "stderr", resume, stopped)


def _is_judgement(judgement: Judgement) -> None:
    assert isinstance(judgement.outcome, Outcome)
    assert "\n" not in judgement.detail
