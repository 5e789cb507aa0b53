"""A real service manager of a user (`systemd --user`) for tests, in namespaces of its own.

It sees this machine's files, but its processes, its cgroup tree and its /run are its own: nothing it does is seen
outside, and killing its first process ends everything in it. Needs root and the program systemd, but no booted systemd
and no D-Bus.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.desk import until

PROGRAM = Path(sys.executable).parent / "agent-mailer"
SYSTEMD = next((p for p in (Path("/usr/lib/systemd/systemd"), Path("/lib/systemd/systemd")) if p.exists()), None)
PATH = "/usr/local/bin:/usr/bin:/bin"

# The cgroup tree is entered before its namespace is made, so that what systemd sees as its top is ours alone. A system
# that was not booted with systemd has no /run/systemd/system, without which `systemd --user` will not start.
_BOOT = """\
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
umount -R -l /sys/fs/cgroup 2>/dev/null || :
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$1"
for controller in memory pids; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || :
done
echo $$ >"/sys/fs/cgroup/$1/cgroup.procs"
exec unshare --cgroup --mount sh -c '
    umount -l /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    "$1" --user --unit=basic.target --log-target=null </dev/null &
    wait $!' sh "$2"
"""
_SWEEP = """\
mount --make-rprivate /
umount -R -l /sys/fs/cgroup 2>/dev/null || :
mount -t cgroup2 cgroup2 /sys/fs/cgroup
find "/sys/fs/cgroup/$1" -depth -type d -exec rmdir {} +
"""


class UserManager:
    """The user's manager as a test reaches it: commands that run in its namespaces, with its user's environment."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.home = base / "home"
        self.runtime_dir = base / "run"
        self.config = self.home / ".config"
        self.units = self.config / "systemd" / "user"
        self.env = {
            "HOME": str(self.home),
            "USER": "root",
            "LOGNAME": "root",
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "TMPDIR": str(base / "tmp"),
            "AGENT_MAILER_SANDBOX": "off",
            "XDG_RUNTIME_DIR": str(self.runtime_dir),
            "XDG_CONFIG_HOME": str(self.config),
            "XDG_STATE_HOME": str(self.home / ".local" / "state"),
        }
        for folder in (self.home, self.runtime_dir, self.units, base / "tmp"):
            folder.mkdir(parents=True, mode=0o700)
        self._enter: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Raises AssertionError where it does not come up."""
        cgroup = f"agent-mailer-test-{secrets.token_hex(4)}"
        words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        words += ["sh", "-c", _BOOT, "sh", cgroup, str(SYSTEMD)]
        said = self.base / "boot.txt"
        with said.open("wb") as stream:
            outer = subprocess.Popen(
                words, env=self.env, cwd="/", stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        try:
            until(
                lambda: outer.poll() is not None or (self.runtime_dir / "systemd" / "private").exists(),
                f"the user's manager comes up: {said.read_text()}",
            )
            assert outer.poll() is None, said.read_text()
            init = _only_child(outer.pid)
            self._enter = ["nsenter", f"--target={init}", "--mount", "--pid", "--cgroup", "env", "-C"]
            self.systemctl("is-system-running", "--wait")
            yield
        finally:
            outer.kill()
            outer.wait()
            sweep = ["unshare", "--mount", "sh", "-c", _SWEEP, "sh", cgroup]
            until(lambda: subprocess.run(sweep, capture_output=True).returncode == 0, "its cgroups are empty", 10)

    def run(
        self, words: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the user would, in a shell of their session."""
        return subprocess.run(
            [*self._enter, str(cwd or self.home), *map(str, words)],
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def mailer(self, *words: str | Path, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """The installed `agent-mailer`, by its whole path."""
        return self.run([PROGRAM, *words], cwd=cwd, env=env)

    def systemctl(self, *words: str) -> str:
        """What it printed; its exit status does not matter."""
        done = self.run(["systemctl", "--user", "--no-pager", *words])
        return (done.stdout + done.stderr).strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def limits_memory(self) -> bool:
        """Whether a unit's memory can be limited here: the machine may keep that to an older cgroup tree."""
        return "memory" in self.run(["cat", "/sys/fs/cgroup/cgroup.controllers"]).stdout.split()


@contextmanager
def user_manager() -> Iterator[UserManager]:
    """For a fixture of a module. Without what it needs the test is skipped, except in CI, where it fails."""
    missing = _missing()
    if missing and not os.environ.get("CI"):
        pytest.skip(missing)
    assert not missing, missing
    # Not pytest's own folder: the path of a socket has at most 107 bytes.
    base = Path(tempfile.mkdtemp(prefix="am-"))
    try:
        manager = UserManager(base)
        with manager.running():
            yield manager
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _missing() -> str:
    if SYSTEMD is None:
        return "systemd is not installed (Debian: the package systemd)"
    if os.geteuid() != 0:
        return "only root can make the namespaces in which a user's manager runs"
    allowed = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"no namespaces here: {allowed.stderr.strip()}" if allowed.returncode else ""


def _only_child(pid: int) -> int:
    found: list[int] = []

    def look() -> bool:
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[1]) == pid:
                    found.append(int(entry.name))
        return bool(found)

    until(look, "the first process of the namespace is there")
    return found[0]
