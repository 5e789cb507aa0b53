"""The proof of a sandbox: the very words that will stand before the agent's, around a program that tries every door."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from agent_mailer.confine import probe
from agent_mailer.confine.bounds import TEMPORARY, Places, bounds_of
from agent_mailer.confine.port import Access, Bounds, Kind, Network, Promise, Sandbox, TurnPlaces
from agent_mailer.errors import MailerError
from agent_mailer.meanwhile import meanwhile
from agent_mailer.names import printable
from agent_mailer.process.commands import run_briefly_async
from agent_mailer.process.environment import way_to
from agent_mailer.runtimes.port import Launch, RuntimeTraits

SECONDS = 30.0
_PREFIX = "agent-mailer-proof-"
_CUT_SHORT = 3600.0
"""Seconds: a folder of a proof that is older is in nobody's hands."""
_MOST_SAMPLED = 500
_SHOWN = 3
_RUN_BY_THE_KERNEL = Path("/proc/sys/kernel/core_pattern")
_SCOPED = (Kind.BWRAP, Kind.LANDLOCK)
_NO_SCOPES = "; sockets without a path (X11, some session buses) can be reached: that ends with Linux 6.12"
_DOCTOR = "agent-mailer doctor, or another kind: agent-mailer config set sandbox.kind KIND"


class Question(msgspec.Struct, frozen=True):
    """`may`: whether it should be possible. `text` says what is wrong where it is otherwise."""

    what: str
    where: str
    text: str
    may: bool = False


class Proof(msgspec.Struct, frozen=True):
    """Whether a sandbox holds. `asked` doors were tried; `wrong` says what was otherwise, with the kernel's reason."""

    kind: Kind
    asked: int = 0
    wrong: tuple[str, ...] = ()
    fix: str = ""
    beyond: str = ""
    """What such a kind holds back elsewhere, and cannot here."""

    @property
    def holds(self) -> bool:
        return not self.wrong

    @property
    def text(self) -> str:
        if self.holds:
            return f"{self.kind} holds: {self.asked} doors tried, all as they should be{self.beyond}"
        more = len(self.wrong) - _SHOWN
        return "; ".join(self.wrong[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _clear_earlier() -> None:
    """Remove what proofs have left that were killed. Names of others there, and links, are let be."""
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if not entry.name.startswith(_PREFIX):
                continue
            with suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
                if ours and time.time() - found.st_mtime > _CUT_SHORT:
                    shutil.rmtree(entry.path, ignore_errors=True)


async def prove(sandbox: Sandbox, places: Places, traits: RuntimeTraits, launch: Launch) -> Proof:
    """Try it as for a turn that starts `launch`. Never raises but for a cancelled task."""
    if why := sandbox.why_not(places.network):
        return Proof(sandbox.kind, wrong=(why,), fix=sandbox.mend(""))
    if traits.remote and places.network is Network.OFF:
        why = f"network is off, and the model of {traits.name} is reached over the network"
        return Proof(sandbox.kind, wrong=(why,), fix="agent-mailer config set sandbox.network on")
    try:
        with ExitStack() as held:
            return await _try(sandbox, places, traits, launch, held)
    except MailerError as fault:
        return Proof(sandbox.kind, wrong=(fault.message,), fix=fault.fix)
    except OSError as error:
        return Proof(sandbox.kind, wrong=(f"it cannot be tried: {error}",), fix=_DOCTOR)


async def _try(sandbox: Sandbox, places: Places, traits: RuntimeTraits, launch: Launch, held: ExitStack) -> Proof:
    await meanwhile(_clear_earlier)
    scratch = _real(held.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX)))
    turn = TurnPlaces(scratch / "turn", scratch / "turn" / "outbox", scratch / "turn" / "tmp")
    for folder in (turn.folder, turn.outbox, turn.tmp, scratch / "canary"):
        folder.mkdir(mode=0o700)
    (scratch / "canary" / "secret").write_text("seen")
    hidden = msgspec.structs.replace(places, hidden=(*places.hidden, scratch / "canary"))
    bounds = bounds_of(hidden, turn, Path(launch.argv[0]), traits.home, launch.env)
    steps = (step for program in sandbox.programs() for step in _steps(program))
    if exposed := [path for path in steps if bounds.access(path) is Access.WRITE]:
        why = f"{exposed[0]} does the confining, and lies where the agent may write"
        return Proof(sandbox.kind, wrong=(why,), fix="install it elsewhere, or choose another project_dir")
    mark = f".agent-mailer-proof-{secrets.token_hex(6)}"
    promises = sandbox.promises(bounds)
    questions = [
        *_program(Path(launch.argv[0])),
        *_files(bounds, promises, mark),
        *_outside(bounds, places, mark),
        *_processes(promises, mark),
        *_sockets(promises, places.network, scratch, held),
    ]
    python = _real(getattr(sys, "_base_executable", sys.executable))
    env = {**launch.env, "AGENT_MAILER_TURN_DIR": str(turn.folder), "AGENT_MAILER_WORKDIR": str(places.workdir)}
    tried = Launch((str(python), "-I", "-S", probe.__file__), env, launch.cwd)
    within = sandbox.around(tried, bounds)
    asked = msgspec.json.encode([(question.what, question.where) for question in questions])
    done = await run_briefly_async(within.argv, env=within.env, cwd=within.cwd, seconds=SECONDS, stdin=asked)
    answers = _answers(done.output, len(questions)) if done.status == 0 else None
    if answers is None:
        said = [line.strip() for line in done.output.splitlines() if line.strip()]
        why = printable(said[-1], 300) if said else f"exit status {done.status}"
        wrong = f"{sandbox.kind} starts nothing here: {why}"
        return Proof(sandbox.kind, wrong=(wrong,), fix=sandbox.mend(done.output))
    wrong_ones = [_wrong(*pair) for pair in zip(questions, answers, strict=True) if _differs(*pair)]
    if Promise.TEMPORARY in promises:
        wrong_ones += [f"{folder} is shared with everybody" for folder in TEMPORARY if _left(folder / mark)]
    beyond = _NO_SCOPES if sandbox.kind in _SCOPED and Promise.ABSTRACT not in promises else ""
    return Proof(sandbox.kind, len(questions), tuple(wrong_ones), _DOCTOR if wrong_ones else "", beyond)


def _steps(path: Path) -> list[Path]:
    """Each link that leads to it, and what it is in the end: whoever may change one of them says what is run."""
    passed = [*way_to(str(path))]
    return [*(step for step, is_link in passed if is_link), passed[-1][0]]


def _program(path: Path) -> Iterator[Question]:
    if os.access(path, os.R_OK):
        yield Question(
            "read", str(path), f"{path}, the agent program, cannot be seen: [sandbox] read opens it", may=True
        )


def _files(bounds: Bounds, promises: frozenset[Promise], mark: str) -> Iterator[Question]:
    """Every rule of the bounds, as far as it can be asked."""
    carved = {parent for rule in bounds.rules if rule.access is Access.HIDE for parent in rule.path.parents}
    for rule in bounds.rules:
        path, folder = rule.path, rule.path.is_dir()
        if not (rule.firm or Promise.FIRM in promises) and (rule.access is Access.HIDE or path in bounds.fresh):
            continue
        if path in bounds.fresh:
            yield Question("leave", str(path / mark), f"{path}, which your own sessions execute, can be written")
        elif rule.access is Access.HIDE:
            sample = _sample(path, bounds)
            if sample is not None:
                yield Question("read", str(sample), f"{path} can be read")
        elif not os.path.lexists(path) or path == Path("/") or path in bounds.sockets:
            continue
        elif rule.access is Access.WRITE:
            if folder and os.access(path, os.W_OK) and (Promise.TOP_LEVEL in promises or path not in carved):
                yield Question("make", str(path / mark), f"{path} cannot be written", may=True)
        elif (rule.firm or Promise.FIRM in promises) and os.access(path, os.W_OK):
            where = ("leave", path / mark) if folder else ("write", path)
            yield Question(where[0], str(where[1]), f"{path} can be written")


def _sample(path: Path, bounds: Bounds) -> Path | None:
    """A file below `path` that holds something and is hidden as all of it is; None where there is none near the top."""
    if path.is_file():
        return path if os.access(path, os.R_OK) and path.stat().st_size else None
    looked = 0
    for folder, _, names in os.walk(path):
        for name in names:
            looked += 1
            file = Path(folder, name)
            with suppress(OSError):
                holds = file.is_file() and not file.is_symlink() and file.stat().st_size and os.access(file, os.R_OK)
                if holds and bounds.access(file) is Access.HIDE:
                    return file
        looked += 1
        if looked > _MOST_SAMPLED:
            break
    return None


def _outside(bounds: Bounds, places: Places, mark: str) -> Iterator[Question]:
    """Where nothing was allowed, and the watcher itself could write."""
    for folder in {Path("/"), places.home, places.workdir.parent, places.state, *places.hidden}:
        if bounds.access(folder) is not Access.WRITE and folder.is_dir() and os.access(folder, os.W_OK):
            yield Question("leave", str(folder / mark), f"{folder} can be written")


def _processes(promises: frozenset[Promise], mark: str) -> Iterator[Question]:
    if Promise.PROCESSES in promises:
        with suppress(OSError):
            yield Question("processes", str(Path("/proc/self/ns/pid").readlink()), "it sees the processes of others")
    elif Promise.SIGNALS in promises:
        yield Question("signal", str(os.getpid()), "it can signal the watcher")
    if os.geteuid() == 0 or os.access(_RUN_BY_THE_KERNEL, os.W_OK):
        # Whatever kind it is: root needs no privilege there.
        text = f"{_RUN_BY_THE_KERNEL} can be written, which says what the kernel runs outside: be no root, or use bwrap"
        yield Question("write", str(_RUN_BY_THE_KERNEL), text)
    if Promise.TEMPORARY in promises:
        yield Question("leave", str(TEMPORARY[0] / mark), f"{TEMPORARY[0]} cannot be written", may=True)


def _sockets(promises: frozenset[Promise], network: Network, scratch: Path, held: ExitStack) -> Iterator[Question]:
    if Promise.SOCKETS in promises:
        path = scratch / "canary" / "socket"
        with suppress(OSError):  # a name that is too long for a socket
            held.enter_context(_listening(socket.AF_UNIX, str(path)))
            yield Question("unix", str(path), "a socket that was not named can be reached")
    if Promise.ABSTRACT in promises:
        name = f"{_PREFIX}{secrets.token_hex(8)}"
        held.enter_context(_listening(socket.AF_UNIX, f"\0{name}"))
        yield Question("unix", f"@{name}", "a socket of others that has no path can be reached")
    here = held.enter_context(_listening(socket.AF_INET, ("127.0.0.1", 0)))
    if Promise.PROXY in promises:
        yield Question(
            "proxy", str(here.getsockname()[1]), "this machine, and so the model, cannot be reached", may=True
        )
    if network is not Network.MODEL:
        may = network is Network.ON
        yield Question("inet", str(here.getsockname()[1]), f"with network {network}, this machine's own ports", may=may)


def _listening(family: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
    made = socket.socket(family)
    try:
        made.bind(address)
        made.listen(4)
    except BaseException:
        made.close()
        raise
    return made


def _answers(output: str, count: int) -> list[str] | None:
    try:
        found = msgspec.json.decode(output, type=list[str])
    except msgspec.DecodeError:
        return None
    return found if len(found) == count else None


def _differs(question: Question, answer: str) -> bool:
    """What was left where nothing may be counts if it is there from outside as well, and is removed."""
    if question.what == "leave" and not question.may:
        return _left(Path(question.where))
    return (not answer) != question.may


def _wrong(question: Question, answer: str) -> str:
    return f"{question.text} ({printable(answer, 100)})" if answer else question.text


def _left(path: Path) -> bool:
    with suppress(FileNotFoundError):
        path.unlink()
        return True
    return False


def _real(path: str) -> Path:
    return Path(path).resolve()
