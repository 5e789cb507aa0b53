"""`drill`: kill the product on this machine, again and again, and count what came of it."""

from __future__ import annotations

import os
import platform
import random
import signal
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from agent_mailer.amounts import counted
from agent_mailer.cli.demo import json_of, staged
from agent_mailer.cli.options import Json
from agent_mailer.cli.terminal.commands import FastCommand, single
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.cli.terminal.screen import Ink, paint
from agent_mailer.errors import ExitCode, MailerError, UsageFault

if TYPE_CHECKING:
    from agent_mailer.drill.scene import Scene
    from agent_mailer.drill.verdict import Verdict

THREADS = ("red", "green", "blue")
MOST_WAITING = 5
_NO_SMALL_DISK = "A full disk could not be made here: that takes root."

app = single()


class Victim(StrEnum):
    WATCHER = "the watcher"
    TURN = "something of a turn"
    BOTH = "something of a turn, and the watcher"
    HANDED_OVER = "the watcher, handing over"
    STOPPED = "the watcher, asked to stop"
    BROKER = "the broker"
    DISK = "no room on the disk"


_SIGNALS = {Victim.WATCHER: signal.SIGKILL, Victim.HANDED_OVER: signal.SIGUSR1, Victim.STOPPED: signal.SIGTERM}


@app.command("drill", cls=FastCommand)
def drill(
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100_000, help="Kills.")] = 25,
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where the scratch folder is made. Default: here.")
    ] = None,
    broker: Annotated[bool, typer.Option("--broker", help="By way of a broker, which is killed as well.")] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="As an earlier drill chose whom to kill, and when.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the scratch folder, also where all is well.")] = False,
    small_disk: Annotated[
        Path | None, typer.Option("--small-disk", metavar="WITNESS", hidden=True, help="DIR is one, which is filled.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove it on this machine: kill watcher, turns and broker at random, and count what is lost, and what is twice.

    It needs no key and no agent program, works in a scratch folder on the file system of DIR, and ends what it starts.
    """
    from agent_mailer.drill.scene import Scene

    if broker:
        from agent_mailer.cli.broker.database import require_extra

        require_extra()
    scratch = _scratch(folder)
    chosen = seed if seed is not None else random.SystemRandom().randrange(10**6)
    where = f"{_file_system(scratch)}, Linux {platform.release()}"
    if not as_json:
        say(f"{counted(rounds, 'kill')} in {scratch} ({where}), seed {chosen}\n")
    scene = Scene(scratch, broker=broker, witness=small_disk)
    case = ""
    try:
        with staged(scene, keep=keep):
            verdict = _play(scene, rounds, random.Random(chosen), small_disk=small_disk is not None, quiet=as_json)
            scene.close()
            case = "" if verdict.held else str(_pack(scratch, beside=small_disk or scratch))
    except MailerError as fault:
        raise MailerError(
            fault.code, f"the drill did not come to its end: {fault.message}", f"look into {scratch}"
        ) from None
    if not as_json:
        _tell(verdict, case, kept=scratch if keep else None)
    filled = None if small_disk or broker else _on_a_small_disk(scratch.parent, chosen)
    if as_json:
        told = {"by_victim": dict(scene.evidence.kills), "seed": chosen, "where": where, "case": case}
        json_out({**_shape(verdict), **told, "small_disk": filled and filled.sentence})
    elif filled is not None:
        say(filled.sentence)
        _tell_case(filled.case)
    if not verdict.held or (filled is not None and not filled.held):
        raise typer.Exit(ExitCode.FAILED)


def _play(scene: Scene, rounds: int, chance: random.Random, *, small_disk: bool, quiet: bool) -> Verdict:
    """Raises DrillFailed, OSError."""
    from agent_mailer.drill.verdict import judge

    scene.prepare()
    began = time.monotonic()
    victims: list[Victim] = []
    done = 0
    while done < rounds:
        if not victims:
            there = {Victim.BROKER: scene.restart_broker is not None, Victim.DISK: small_disk}
            every = [victim for victim in Victim if there.get(victim, True)]
            victims = chance.sample(every, len(every))
        for thread in THREADS:
            if scene.waiting < MOST_WAITING and (not scene.waiting or chance.random() < 0.5):
                scene.send(thread)
        scene.watch()
        victim = victims[-1]
        if not _strike(scene, victim, chance):
            continue
        victims.pop()
        done += 1
        scene.evidence.kills[victim.value] += 1
        if not quiet:
            sent, settled = len(scene.evidence.sent), len(scene.settled())
            mail = f"{settled} of {sent} messages done"
            say(f"{paint(f'{time.monotonic() - began:6.1f} s', Ink.FAINT)}  {done:>3}  {victim.value:<38} {mail}")
    scene.finish()
    return judge(scene.evidence)


def _strike(scene: Scene, victim: Victim, chance: random.Random) -> bool:
    """False where nobody was to be killed just now."""
    if victim in (Victim.TURN, Victim.BOTH):
        if not scene.strike_turn(chance.choice, chance.uniform(0.0, 0.15)):
            return False
        if victim is Victim.BOTH:
            scene.strike_watcher(signal.SIGKILL)
        return True
    time.sleep(chance.uniform(0.0, 0.6))  # the kill is to fall anywhere, not on something observable
    if victim is Victim.DISK:
        scene.fill_disk(chance.uniform(0.5, 1.5))
    elif victim is Victim.BROKER:
        assert scene.restart_broker is not None
        scene.restart_broker()
    else:
        scene.strike_watcher(_SIGNALS[victim])
    return True


class _Filled(NamedTuple):
    held: bool
    sentence: str
    case: str = ""


class _SmallDisk:
    """Where the disk is mounted, and what the agent writes beside it; what is in it ends with the process in it."""

    def __init__(self, beside: Path) -> None:
        self.mount = Path(tempfile.mkdtemp(prefix="agent-mailer-drill-disk-", dir=beside))
        self.witness = self.mount.with_name(f"{self.mount.name}.witness")

    def remove(self) -> None:
        """All is removed by `close`: what runs there has ended with whoever was told to begin it."""

    def close(self) -> None:
        self.witness.unlink(missing_ok=True)
        with suppress(OSError):
            self.mount.rmdir()


def _on_a_small_disk(beside: Path, seed: int) -> _Filled:
    """The drill once more, briefly, on a disk in memory that gets full: in a mount namespace, where one can be had."""
    from agent_mailer.process.commands import run_command

    disk = _SmallDisk(beside)
    with staged(disk, keep=False):
        mount, witness = str(disk.mount), disk.witness
        inner = 'mount -t tmpfs -o size=32m,mode=0700 drill "$1" && shift && exec "$@"'
        namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inner, "sh", mount]
        words = [sys.executable, "-I", "-m", "agent_mailer.cli.app", "drill", "--rounds", "8", "--seed", str(seed)]
        words += ["--dir", mount, "--small-disk", str(witness), "--json"]
        try:
            # What was root's belongs to nobody in there unless we are root: no folder of ours could be trusted then.
            if run_command([*namespace, "test", "-O", "/"], env=os.environ, cwd=beside).status:
                return _Filled(held=True, sentence=_NO_SMALL_DISK)
            done = run_command([*namespace, *words], env=os.environ, cwd=beside)
        except FileNotFoundError:
            return _Filled(held=True, sentence=_NO_SMALL_DISK)
    return _filled(done.output)


def _filled(output: str) -> _Filled:
    """What the drill in there printed."""
    told = json_of(output)
    if not isinstance(told, dict):
        return _Filled(held=False, sentence=f"On a small disk that got full: {output.strip()}")
    fault = told.get("error")
    said = f"{fault['message']} ({fault['fix']})" if isinstance(fault, dict) else told.get("sentence")
    return _Filled(told.get("held") is True, f"On a small disk that got full: {said}", told.get("case") or "")


def _tell(verdict: Verdict, case: str, kept: Path | None) -> None:
    say(f"\n{paint(verdict.sentence, Ink.GREEN if verdict.held else Ink.RED)}")
    for what, which in (
        ("lost", verdict.lost),
        ("twice", verdict.twice),
        ("order", verdict.order),
        ("left", verdict.left),
    ):
        for line in which:
            say(f"  {what}: {line}")
    _tell_case(case)
    if kept is not None:
        say(f"Kept: {kept}")


def _tell_case(case: str) -> None:
    if case:
        say(f"\nThis must not be. The case, with the drill's mail and state and nothing else of yours: {case}")


def _shape(verdict: Verdict) -> dict[str, object]:
    import msgspec

    return {"held": verdict.held, "sentence": verdict.sentence, **msgspec.to_builtins(verdict)}


def _pack(scratch: Path, *, beside: Path) -> Path:
    """The scratch folder as one file, beside what outlives it."""
    case = beside.with_name(f"{scratch.name}.tar.gz")
    with tarfile.open(case, "w:gz") as archive:
        archive.add(scratch, scratch.name)
    return case


def _scratch(folder: Path | None) -> Path:
    where = (folder or Path.cwd()).absolute()
    try:
        return Path(tempfile.mkdtemp(prefix="agent-mailer-drill-", dir=where)).resolve()
    except OSError as fault:
        raise UsageFault(
            "no_folder", f"no scratch folder can be made in {where}: {fault.strerror}", "--dir DIR"
        ) from None


def _file_system(folder: Path) -> str:
    """The type of the file system that `folder` is on, by the longest mount point above it."""
    mounts: list[tuple[str, str]] = []
    for line in Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines():
        _, point, kind, *_ = line.split(" ")
        mounts.append((point.encode().decode("unicode_escape"), kind))
    above = [(point, kind) for point, kind in mounts if folder.is_relative_to(point)]
    return max(above, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]
