"""Make the kept states of `tests/fixtures/kept/` again: `python -m tests.kept_past [COMMIT...]`; all without one.

Each commit is run itself: its sources are taken from git, its own watcher works on mail with a scripted agent, and is
killed by SIGKILL while turns run. It needs the history of this repository, and a minute.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import tomlkit
from tests.amq_tree import mailbox, write
from tests.kept import FOLDER, store, take

PROJECT = Path(__file__).parents[1]
PATIENCE = 60.0


class Era(msgspec.Struct, frozen=True):
    """What a commit knows, and what its mail goes through; each knows what the one before knows."""

    commit: str
    journal: bool = False
    """A session was bound in the life that was killed: it stands in `sessions.journal` alone."""
    unsent: bool = False
    """Where the mailbox is gone a turn's end waits: it is killed with its settlement not applied."""
    held: bool = False
    approvals: bool = False


ERAS = (
    Era("dbf2b54"),
    Era("2d662bc", journal=True, unsent=True),
    Era("11289ae", journal=True, unsent=True, held=True),
    Era("da33893", journal=True, unsent=True, held=True, approvals=True),
    Era("0c9d9d8", journal=True, unsent=True, held=True, approvals=True),
)

# The witness hears "start NAME" and "end NAME"; `plan-ID` says the message's name and how its first run ends.
AGENT = r"""
cat >/dev/null
base=$1
read -r name plan <"$base/plan-$AGENT_MAILER_MESSAGE_ID"
echo "start $name $AGENT_MAILER_TURN_ID" >>"$base/witness"
say() { printf '{"type":%s}\n' "$1"; }
say "\"session\",\"id\":\"s-$name\""
say '"progress","text":"at it"'
if [ "$plan" = hold ]; then
  until [ -e "$base/go-$name" ]; do sleep 0.02; done
  plan=done
fi
[ "$plan" != asked ] && [ -e "$base/been-$name" ] && plan=done
: >"$base/been-$name"
grep -q '"word":"allow"' "$AGENT_MAILER_APPROVALS" 2>/dev/null && plan=done
echo "end $name" >>"$base/witness"
case $plan in
done) say "\"result\",\"text\":\"answer $name\"" ;;
asked) say '"result","outcome":"asked","tool":"Bash","input":{"command":"push"}' ;;
*) say "\"result\",\"outcome\":\"$plan\",\"detail\":\"$plan it is\"" ;;
esac
"""


def main(arguments: list[str]) -> None:
    chosen = [era for era in ERAS if not arguments or era.commit in arguments]
    for number, era in enumerate(ERAS, 1):
        if era in chosen:
            with tempfile.TemporaryDirectory(prefix="kept-") as name:
                Past(Path(name).resolve(), era).live(FOLDER / f"{number}-{era.commit}.json")
                print(f"{number}-{era.commit}.json")


class Past:
    """One folder's past, under one commit."""

    def __init__(self, top: Path, era: Era) -> None:
        self.era = era
        self.base = top / "base"
        self.source = top / "source"
        self.state = self.base / "coder" / ".agent-mailer"
        self.messages: dict[str, str] = {}
        self.words = top / "stderr"
        archive = _git("archive", era.commit, "src", "templates")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(self.source, filter="data")
        for handle in ("coder", "planner", "user"):
            mailbox(self.base / "mail", handle)
        self.state.mkdir(mode=0o700, parents=True)
        (self.base / "state").mkdir(mode=0o700)
        (self.base / "agent.sh").write_text(AGENT)

    def live(self, target: Path) -> None:
        """All that befalls it; then it is kept in `target`."""
        era = self.era
        self._configure(max_retries=0)
        self._send("answered", "red")
        self._send("dead", "grey", "failed")
        self._run("--once")
        self._configure(max_retries=3)
        self._send("retried", "green", "failed")
        self._run("--once")
        self._send("behind", "green")
        if era.held:
            self._send("stranger", "away", sender="planner")
        if era.approvals:
            self._send("asking", "yellow", "asked")
        if era.journal:
            self._send("again", "red")
        for name in ("open", "ended", *(("unsent",) if era.unsent else ())):
            self._send(name, name, "hold")
        watcher = self._start()
        try:
            self._until(lambda: all(f"start {name} " in self._witness() for name in self._held_open()), "open turns")
            self._until(lambda: not era.journal or self._settled("again"), "a session")
            self._until(lambda: not era.approvals or self._asked(), "a question")
            self._send("limited", "black", "limited")
            self._until((self.state / "pause.json").exists, "a pause")
            self._until((self._turn("limited") / "settled").exists, "the end of the limited turn")
            if era.unsent:
                (self.base / "mail").rename(self.base / "gone")
                self._go("unsent")
                self._until(lambda: self._phase("unsent") == "settling", "what waits to be sent")
        finally:
            watcher.kill()
            watcher.wait()
        moment = time.time()
        if era.unsent:
            (self.base / "gone").rename(self.base / "mail")
        self._go("ended")
        self._until((self._turn("ended") / "exit").exists, "the end of a turn that nobody follows")
        self._end("open")
        # What is trusted goes by the folder's place on one machine: a person who copies a workdir gives it anew.
        shutil.rmtree(self.base / "state" / "agent-mailer" / "trust", ignore_errors=True)
        shutil.rmtree(self.base / "state" / "agent-mailer" / "workdirs", ignore_errors=True)
        date = datetime.fromtimestamp(int(_git("log", "-1", "--format=%ct", era.commit)), UTC).isoformat()
        says = _git("log", "-1", "--format=%s", era.commit).decode().strip()
        commit = _git("rev-parse", era.commit).decode().strip()
        kept = take(self.base, commit=commit, date=date, says=says, moment=moment, messages=self.messages)
        target.parent.mkdir(exist_ok=True)
        store(kept, target)

    def _held_open(self) -> list[str]:
        return [name for name in ("open", "ended", "unsent") if name in self.messages]

    def _configure(self, **more: object) -> None:
        settings: dict[str, object] = {
            "address": "coder",
            "runtime": "command",
            "permission_mode": "acceptEdits",
            "maildir_root": str(self.base / "mail"),
            "command": ["/bin/sh", str(self.base / "agent.sh"), str(self.base)],
            "command_output": "jsonl",
            "max_parallel_turns": 8,
            "stop_grace": 0,
            # What failed waits until long after the kill.
            "retry": {"first": 2_592_000, "longest": 2_592_000},
            **more,
        }
        if self.era.held:
            settings["deny_from"] = ["planner"]
        if self.era.approvals:
            settings["notify"] = {"command": ["/bin/sh", "-c", "cat >/dev/null"]}
        path = self.state / "config.toml"
        path.write_text(tomlkit.dumps(settings))
        path.chmod(0o600)

    def _send(self, name: str, thread: str, plan: str = "done", *, sender: str = "user") -> None:
        now = datetime.now(UTC)
        stamp = now.strftime("%Y-%m-%dT%H-%M-%S") + f".{now.microsecond // 1000:03d}Z"
        message = f"{stamp}_pid4711_{len(self.messages):08x}"
        (self.base / f"plan-{message}").write_text(f"{name} {plan}\n")
        self.messages[name] = message
        created = now.isoformat().replace("+00:00", "Z")
        write(self.base / "mail", "coder", sender, id=message, thread=thread, subject=name, created=created)

    def _start(self, *more: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "agent_mailer.cli.app", "watch", "--no-interactive"]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.base / "home"), "PYTHONPATH": str(self.source / "src")}
        env |= {"XDG_STATE_HOME": str(self.base / "state"), "AGENT_MAILER_SANDBOX": "off"}
        with self.words.open("ab") as words:
            return subprocess.Popen([*argv, *more], cwd=self.base / "coder", env=env, stdout=words, stderr=words)

    def _run(self, *more: str) -> None:
        status = self._start(*more).wait(PATIENCE)
        assert status in (0, 1), self.words.read_text()

    def _go(self, name: str) -> None:
        (self.base / f"go-{name}").touch()

    def _end(self, name: str) -> None:
        """Its agent and its holder are gone, as after a power failure."""
        turn = self._turn(name).name.encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and b"AGENT_MAILER_TURN_ID=" + turn in _environment(entry):
                os.kill(int(entry.name), signal.SIGKILL)

    def _turn(self, name: str) -> Path:
        [turn] = [Path(line.split()[2]) for line in self._witness().splitlines() if line.startswith(f"start {name} ")]
        return self.state / "turns" / turn

    def _phase(self, name: str) -> str:
        record = msgspec.json.decode((self._turn(name) / "turn.json").read_bytes())
        return str(record["phase"])

    def _asked(self) -> bool:
        return "start asking " in self._witness() and (self._turn("asking") / "settled").exists()

    def _settled(self, name: str) -> bool:
        path = self.state / "processed.txt"
        return path.exists() and self.messages[name] in path.read_text()

    def _witness(self) -> str:
        path = self.base / "witness"
        return path.read_text() if path.exists() else ""

    def _until(self, what: Callable[[], object], why: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, f"{self.era.commit}: no {why}: {self.words.read_text()}"
            time.sleep(0.01)


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def _git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(PROJECT), *words], check=True, capture_output=True).stdout


if __name__ == "__main__":
    main(sys.argv[1:])
