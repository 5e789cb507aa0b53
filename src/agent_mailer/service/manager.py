"""The service manager of this user, reached through `systemctl --user`."""

from __future__ import annotations

import getpass
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent_mailer.disk import Disk, Sync, read_regular
from agent_mailer.errors import ExitCode, MailerError, UnavailableFault, quoted
from agent_mailer.process.commands import Brief, run_briefly
from agent_mailer.process.environment import find_tool
from agent_mailer.service.unit import ONESHOT_SECONDS, Instance, oneshot_of

SECONDS = 30.0
JOB_SECONDS = 600.0
"""A stop waits for running turns (`stop_grace`), a start for what systemd allows it."""

LARGEST_OUTPUT = 1024 * 1024
BOOTED = Path("/run/systemd/system")
"""There where systemd has started the system (sd_booted(3))."""

BY_HAND = "agent-mailer watch --no-interactive, under whatever starts services here"


class UnitState(msgspec.Struct, frozen=True):
    """What systemd says of a unit, in its words. `text` is the watcher's own status line."""

    active: str = ""
    sub: str = ""
    text: str = ""
    enabled: str = ""
    since: str = ""
    pid: int = 0
    restarts: int = 0
    result: str = ""
    exit_status: int = 0


_PROPERTIES = {
    "active": "ActiveState",
    "sub": "SubState",
    "text": "StatusText",
    "enabled": "UnitFileState",
    "since": "StateChangeTimestamp",
    "pid": "MainPID",
    "restarts": "NRestarts",
    "result": "Result",
    "exit_status": "ExecMainStatus",
}


class UserManager:
    """Raises UnavailableFault where there is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._env = {**environ, "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
        runtime = Path(f"/run/user/{os.geteuid()}")
        # A shell that came about by su or sudo has no runtime folder named; the manager may be there all the same.
        if not environ.get("XDG_RUNTIME_DIR") and (runtime / "systemd").is_dir():
            self._env["XDG_RUNTIME_DIR"] = str(runtime)
        found = find_tool("systemctl", environ=environ)
        if found is None:
            raise UnavailableFault("no_systemd", "this system has no systemd (systemctl is not in PATH)", _elsewhere())
        self._systemctl = found
        answer = self._call("show", "--property=Version")
        if answer.status != 0:
            raise _unreachable(answer.output)

    @property
    def runtime_dir(self) -> Path:
        return Path(self._env["XDG_RUNTIME_DIR"])

    def reload(self) -> None:
        self.do("daemon-reload")

    def do(self, *words: str) -> None:
        """Run a verb to its end. Raises MailerError with systemd's words."""
        done = self._call(*words, seconds=JOB_SECONDS)
        if done.status != 0:
            why = "no end within 10 minutes" if done.status is None else _first_line(done.output)
            unit = words[-1] if words[-1].endswith(".service") else ""
            fix = f"agent-mailer service logs {_instance(unit)}" if unit else "systemctl --user status"
            raise MailerError("systemd_refused", f"systemctl --user {' '.join(words)}: {why}", fix)

    def state(self, unit: str) -> UnitState:
        """Raises UnavailableFault where the manager does not answer."""
        done = self._call("show", f"--property={','.join(_PROPERTIES.values())}", unit)
        if done.status != 0:
            raise _unreachable(done.output)
        values = dict(line.split("=", 1) for line in done.output.splitlines() if "=" in line)
        # An older systemd does not know all of them.
        known = {field: value for field, name in _PROPERTIES.items() if (value := values.get(name))}
        return msgspec.convert(known, type=UnitState, strict=False)

    def run_once(self, texts: Sequence[str], name: str, program: Path, words: Sequence[str], disk: Disk) -> bytes:
        """What `agent-mailer WORDS` prints in the surroundings of the service that `texts` make up.

        Raises MailerError where it could not be started.
        """
        unit = self.runtime_dir / "systemd" / "user" / f"agent-mailer-trial@{name}.service"
        output = self.runtime_dir / f"agent-mailer-trial-{secrets.token_hex(8)}"
        errors = output.with_name(f"{output.name}.err")
        disk.make_directory(unit.parent)
        try:
            for path in (output, errors):
                disk.create(path, b"", sync=Sync.NONE)
            disk.replace(unit, oneshot_of(texts, program, words, output, errors).encode(), sync=Sync.NONE)
            self.reload()
            done = self._call("start", unit.name, seconds=ONESHOT_SECONDS + SECONDS)
            said = read_regular(output, LARGEST_OUTPUT)
            if not said:
                words_of_it = read_regular(errors, LARGEST_OUTPUT).decode("utf-8", "replace") or done.output
                state = self.state(unit.name)
                raise MailerError(
                    "trial_failed",
                    f"{program} could not be started as a service: {state.result} (status {state.exit_status}): "
                    f"{_first_line(words_of_it)}",
                    f"journalctl --user -u {unit.name}",
                )
            return said
        finally:
            for path in (output, errors, unit):
                with suppress(OSError):
                    disk.remove(path)
            self._call("reset-failed", unit.name)
            self._call("daemon-reload")

    def _call(self, *words: str, seconds: float = SECONDS) -> Brief:
        return run_briefly((self._systemctl, "--user", *words), env=self._env, cwd=Path("/"), seconds=seconds)


def lingers(environ: Mapping[str, str]) -> bool:
    """Whether the user's services run while the user is not logged in."""
    return (Path("/var/lib/systemd/linger") / user_name(environ)).exists()


def user_name(environ: Mapping[str, str]) -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return environ.get("USER", "")


def booted() -> bool:
    """Whether systemd has started this system: where it has not, no service of ours runs."""
    return BOOTED.is_dir()


def _unreachable(output: str) -> UnavailableFault:
    if not booted():
        return UnavailableFault("no_systemd", "this system was not started by systemd", _elsewhere())
    user = user_name(os.environ)
    return UnavailableFault(
        "no_user_manager",
        f"the service manager of {user} cannot be reached: {_first_line(output)}",
        f"sudo loginctl enable-linger {user}, then log in as {user} (ssh, or machinectl shell {user}@), not by su",
    )


def _elsewhere() -> str:
    if sys.platform == "darwin":
        return "use launchd: packaging/dev.agent-mailer.agent.plist in the sources says how"
    return f"run {BY_HAND}"


def _instance(unit: str) -> str:
    return unit.removeprefix("agent-mailer@").removesuffix(".service")


def _first_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[0] if lines else "it said nothing"


_HOPELESS = {
    ExitCode.REFUSED.value: "credentials are refused",
    ExitCode.CONFIG.value: "configuration, permissions or identity are wrong",
}
"""Ends after which systemd does not start it again."""


class Problem(msgspec.Struct, frozen=True):
    text: str
    fix: str


def problems_of(instance: Instance, state: UnitState) -> tuple[Problem, ...]:
    """What keeps the service from its work, or will at its next start."""
    found = []
    if not instance.workdir.is_dir():
        found.append(Problem(f"{instance.workdir} has vanished", f"agent-mailer service uninstall {instance.name}"))
    again = f"agent-mailer service install -C {quoted(instance.workdir)}"
    found += [Problem(f"{path} has vanished", again) for path in vanished((instance.program, *instance.needs))]
    begin = f"agent-mailer service start {instance.name}"
    if state.sub.startswith("auto-restart"):
        text = f"not running: exit status {state.exit_status}, {state.restarts} times; it is started again and again"
        found.append(Problem(text, f"agent-mailer service logs {instance.name}"))
    elif state.active == "failed" and (meaning := _HOPELESS.get(state.exit_status)) is not None:
        text = f"not running: exit status {state.exit_status}: {meaning}"
        found.append(Problem(text, f"agent-mailer verify -C {quoted(instance.workdir)}, then {begin}"))
    elif state.active not in ("active", "activating", "reloading"):
        found.append(Problem(f"not running: {state.active}{f', {state.result}' if _odd(state) else ''}", begin))
    return tuple(found)


def _odd(state: UnitState) -> bool:
    return state.result not in ("", "success")


def vanished(programs: Sequence[Path]) -> list[Path]:
    """Those that can no longer be started."""
    return [path for path in programs if not os.access(path, os.X_OK)]
