"""A copy of the tree in which one module after the other is changed, and tests are run on it.

It has an environment of its own, whose Python takes the program from the copy and everything else from ours: whatever
a test starts, with whatever environment, runs what was changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Collection, Sequence
from enum import Enum
from itertools import count
from pathlib import Path
from types import TracebackType

import grimp
import msgspec
import pytest
from tests.mutation.reaching import ASKED, Reach
from tests.mutation.scope import SOURCE
from tests.mutation.server import NOT_PLANTED, Ask, Said

COPIED = (
    "src",
    "tests",
    "templates",
    "packaging",
    "tools",
    "docs",
    "examples",
    "pyproject.toml",
    "constraints.txt",
    "README.md",
)
_FOLLOWS = """import sys
from pathlib import Path
tree = Path({tree!r})
if (tree / {asked!r}).exists():
    sys.path.append(str(tree))
    from tests.reach import Trail
    sys.path.pop()
    target, *modules = map(Path, (tree / {asked!r}).read_text().split(":"))
    Trail(target, modules).follow()
"""
"""What each interpreter of the copy begins with."""

_RENAMED = "ERROR: not found: "
"""What pytest says of a test that its file no longer has; a file that cannot be imported is told in other words."""


class _Kind(Enum):
    """What a server has loaded."""

    WARM = "all"
    COLD = "all but what the module reaches"


class Bench:
    """One at a time has the copy; it is gone at the end. `folder`: where it may be made."""

    def __init__(self, project: Path, folder: Path) -> None:
        self.tree = folder / "tree"
        self._folder = folder
        self._output = folder / "output"
        self._scratch = folder / "scratch"
        self._numbers = count(1)
        self._servers: dict[_Kind, subprocess.Popen[bytes]] = {}
        self._module = self.tree
        self._names: tuple[str, ...] = ()
        self._tests: tuple[str, ...] = ()
        self._reach: dict[str, Reach] = {}
        self._daemon = folder / "types.json"
        self._types_known = False
        ignored = shutil.ignore_patterns("__pycache__", ".git", "*.pyc", "survivors.toml")
        self.tree.mkdir()
        for name in COPIED:
            if (project / name).is_dir():
                shutil.copytree(project / name, self.tree / name, ignore=ignored, symlinks=True)
            elif (project / name).exists():
                shutil.copy2(project / name, self.tree / name)
        self.python = self._environment()

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_servers()
        if self._types_known:
            self._dmypy("stop")

    def _environment(self) -> Path:
        """Ours, but for the program: of our site-packages the path alone is added, and no `.pth` file in it is read."""
        home = self.tree / ".venv"
        venv.create(home, symlinks=True)
        lib = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (lib / "mutated.pth").write_text(f"{self.tree / 'src'}\n{sysconfig.get_path('purelib')}\n")
        (lib / "sitecustomize.py").write_text(_FOLLOWS.format(tree=str(self.tree), asked=ASKED))
        for name in ("agent-mailer", "amp"):
            ours = Path(sys.executable).parent / name
            if ours.exists():
                rest = ours.read_text().partition("\n")[2]
                (home / "bin" / name).write_text(f"#!{home / 'bin' / 'python'}\n{rest}")
                (home / "bin" / name).chmod(0o755)
        return home / "bin" / "python"

    def prepare(self, module: str, tests: Sequence[str], beside: Sequence[str] = (), *, some: bool = False) -> Reach:
        """Servers for tests of `module`: one has all loaded, one all but what the module reaches. Who comes where
        unchanged. `beside`: modules that these tests look at next; for them they do not run unchanged once more.
        `some`: those that fail without any change, as they need more of the tree, look at nothing.

        Raises RuntimeError where a test fails without any change, or cannot be imported.
        """
        self._module = self.tree / SOURCE / module
        listed = self._folder / "modules"
        if tuple(tests) == self._tests and str(self._module) in self._reach:
            self._end_servers(_Kind.COLD)
        else:
            self._end_servers()
            self._reach = {}
            self._reach = self._follow(module, tests, {module, *beside}, listed, some=some)
            self._tests = tuple(tests)
        changed = "agent_mailer." + module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        touched = {changed, *_graph().find_downstream_modules(changed)}
        self._names = tuple(name for name in listed.read_text().splitlines() if not _is_touched(name, touched))
        return self._reach[str(self._module)]

    def _follow(
        self, module: str, tests: Sequence[str], followed: Collection[str], listed: Path, *, some: bool
    ) -> dict[str, Reach]:
        reach = self._folder / "reach"
        modules = tuple(str(self.tree / SOURCE / one) for one in followed)
        shutil.rmtree(f"{reach}.lines", ignore_errors=True)
        if self._ask(_Kind.WARM, Ask(tuple(tests), str(self._output), "", collect=True)).code != 0 and not some:
            raise RuntimeError(f"tests of {module} cannot be imported:\n{self.output()[-3000:]}")
        words = Ask(tuple(tests), str(self._output), "", 3600.0, 3600, str(listed), str(reach), modules, some=some)
        # Where each of them is `long` none comes to anything.
        good = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
        if self._in_scratch(_Kind.WARM, words).code not in (good | {pytest.ExitCode.TESTS_FAILED} if some else good):
            raise RuntimeError(f"tests of {module} fail without any change:\n{self.output()[-3000:]}")
        return msgspec.json.decode(reach.read_bytes(), type=dict[str, Reach])

    def write(self, module: str, text: str) -> None:
        path = self.tree / SOURCE / module
        path.write_text(text)
        # Compiled files are told apart by size and second.
        moment = 1_000_000_000 + next(self._numbers)
        os.utime(path, (moment, moment))

    def run(self, tests: Sequence[str], took: float, function: str = "") -> Said:
        """In this order, until one fails. `took`: the seconds they took unchanged; several times that is the limit.
        With `function` that alone of the module is another than when it was imported.
        """
        said = self._run(tests, took, function)
        if said.code == pytest.ExitCode.USAGE_ERROR and _RENAMED in self.output():
            # Their parameters are named by what has changed: that alone is no test that fails.
            return self._run([*dict.fromkeys(name.partition("[")[0] for name in tests)], took, function)
        return said

    def _run(self, tests: Sequence[str], took: float, function: str) -> Said:
        ask = Ask(tuple(tests), str(self._output), "", 60 + 8 * took, int(10 + 5 * took))
        if function:
            planted = msgspec.structs.replace(ask, planted=str(self._module), function=function)
            said = self._in_scratch(_Kind.WARM, planted)
            if said.code != NOT_PLANTED:
                return said
        if _Kind.COLD not in self._servers:
            self._ask(_Kind.COLD, Ask((), "", "", preload=self._names))
        return self._in_scratch(_Kind.COLD, ask)

    def _in_scratch(self, kind: _Kind, ask: Ask) -> Said:
        scratch = self._scratch / str(next(self._numbers))
        self._scratch.mkdir(exist_ok=True)
        try:
            return self._ask(kind, msgspec.structs.replace(ask, scratch=str(scratch)))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def output(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def killer(self) -> str:
        """The test that failed last, as pytest names it."""
        for line in reversed(self.output().splitlines()):
            word, _, rest = line.partition(" ")
            if word in ("FAILED", "ERROR") and rest.startswith("tests/"):
                return rest.partition(" - ")[0]
        return ""

    def types_refuse(self) -> str:
        """What mypy has against the tree as it is; empty where nothing."""
        if not self._types_known:
            self._types_known = True
            self._dmypy("start", "--", "--cache-dir", str(self._folder / "mypy"))
        return self._dmypy("check", "src")

    def _dmypy(self, *words: str) -> str:
        argv = [str(self.python), "-m", "mypy.dmypy", "--status-file", str(self._daemon), *words]
        done = subprocess.run(argv, cwd=self.tree, capture_output=True, text=True, check=False)
        return (done.stdout + done.stderr) if done.returncode else ""

    def _ask(self, kind: _Kind, ask: Ask) -> Said:
        server = self._servers.get(kind)
        if server is None:
            env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
            env["TMPDIR"] = str(self._folder)
            server = self._servers[kind] = subprocess.Popen(
                [str(self.python), "-m", "tests.mutation.server"],
                cwd=self.tree,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=env,
            )
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(msgspec.json.encode(ask) + b"\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that runs the tests has ended with {server.wait()}")
        return msgspec.json.decode(answer, type=Said)

    def _end_servers(self, *kinds: _Kind) -> None:
        """All, where none is named."""
        for kind in kinds or tuple(self._servers):
            if kind in self._servers:
                self._servers.pop(kind).communicate()


def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("agent_mailer")


def _is_touched(name: str, touched: set[str]) -> bool:
    """Whether it may hold something of a changed module, or begins anew with each run."""
    parts = name.split(".")
    if parts[0] in ("tests", "conftest", "__main__", "sitecustomize", "usercustomize"):
        return True
    return any(".".join(parts[:end]) in touched for end in range(1, len(parts) + 1))
