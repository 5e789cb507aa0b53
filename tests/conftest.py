"""What holds for every test: a clean environment, a home of its own, and no process left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.proved import Collects, Proved
from tests.running import Running
from tests.sizes import asked_for, give_time
from tests.spent import Spent

pytest_plugins = ("tests.databases", "tests.broker_people", "tests.team_desk")
SCRUBBED = ("AGENT_MAILER_", "AM_", "ANTHROPIC", "CLAUDE", "CODEX", "OPENAI")


def pytest_configure(config: pytest.Config) -> None:
    """Where nobody watches: a run that is cut off must have said by then what was wrong, and a run in the background of
    a script, or under nohup, must not have its programs inherit that Ctrl-C or a lost terminal means nothing.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.pluginmanager.register(Collects())
    if hasattr(config, "workerinput"):
        return  # with xdist the controller tells
    if config.option.proof is not None:
        config.pluginmanager.register(Proved(config.option.proof))
    if os.environ.get("CI"):
        config.pluginmanager.register(Running(config))
    if config.option.checks_took is not None:
        config.pluginmanager.register(Spent(config.option.checks_took))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--checks-took", type=float, metavar="SECONDS", help="tell at the end what the quick set took")
    parser.addoption("--proof", type=Path, metavar="FILE", help="add to FILE what the harnesses did, as JSON")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    give_time(items)
    if config.option.markexpr:
        return
    wanted = asked_for(items, config.args, config.invocation_params.dir)
    config.hook.pytest_deselected(items=[item for item in items if item not in set(wanted)])
    items[:] = wanted


def _move_home(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(SCRUBBED)]:
        patch.delenv(name)
    places = {
        "HOME": folder,
        "XDG_CONFIG_HOME": folder / ".config",
        "XDG_DATA_HOME": folder / ".local" / "share",
        "XDG_STATE_HOME": folder / ".local" / "state",
        "XDG_CACHE_HOME": folder / ".cache",
        "XDG_RUNTIME_DIR": folder / "run",
    }
    for name, place in places.items():
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        patch.setenv(name, str(place))
    # What `init` would choose here is not the same everywhere; tests of the sandbox choose for themselves.
    patch.setenv("AGENT_MAILER_SANDBOX", "off")
    return folder


@pytest.fixture(scope="session", autouse=True)
def home_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests share is made in no home of a person's either."""
    with pytest.MonkeyPatch.context() as patch:
        _move_home(tmp_path_factory.mktemp("home"), patch)
        yield


@pytest.fixture(scope="module", autouse=True)
def home_of_module(home_of_all: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a module's tests share finds nothing that another module has left."""
    with pytest.MonkeyPatch.context() as patch:
        _move_home(tmp_path_factory.mktemp("home"), patch)
        yield


@pytest.fixture(autouse=True)
def home(home_of_module: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home folder during the test: an empty one. The XDG folders lie in it."""
    return _move_home(tmp_path_factory.mktemp("home"), monkeypatch)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Has this machine stand in a zone."""

    def stand(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield stand
    monkeypatch.undo()
    time.tzset()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Processes of a turn that outlived their test fail the run, and are ended."""
    if hasattr(session.config, "workerinput"):
        return  # with xdist the controller looks, when every worker is done
    base: Path = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    left = list(_turn_processes(str(base)))
    for pid, command in left:
        print(f"\nleft behind by a test: process {pid}: {command}")
        os.kill(pid, signal.SIGKILL)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _turn_processes(base: str) -> Iterator[tuple[int, str]]:
    """Pid and command line of the processes that belong to a turn under `base`, the temporary folder of this run.

    Other runs on this machine, and real watchers, have turns too: those are not ours to end.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        of_a_turn = any(item.startswith(b"AGENT_MAILER_TURN_ID=") for item in environment)
        if of_a_turn and any(base.encode() in item for item in environment):
            yield int(entry.name), command
