"""The rules of the house can fail: each import that they forbid is reported."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.sizes import thinned

PROJECT = Path(__file__).parents[2]
ROOMS = (
    *(
        "broker",
        "broker/users",
        "checks",
        "cli",
        "confine",
        "console",
        "desk",
        "demo",
        "drill",
        "live",
        "mailbox",
        "mailbox/maildir",
        "people",
        "process",
    ),
    *("runtimes", "service", "setup", "state", "teams", "turn_tools", "views", "views/values", "watch"),
)
MODULES = (
    *(
        "assemble",
        "config",
        "disk",
        "broker/app",
        "checks/later",
        "broker/callers",
        "broker/users/routes",
        "broker/users/rows",
        "cli/app",
        "confine/bwrap",
        "console/mounting",
        "live/doorbell",
        "people/folder",
        "process/holder",
        "state/folder",
        "teams/running",
        "turn_tools/folder",
        "views/values/status",
        "views/later",
        "watch/engine",
    ),
    *("mailbox/port", "mailbox/maildir/folder", "mailbox/later", "runtimes/port", "runtimes/later"),
)

# A rule, and imports that break it: the module that gets the import and what it imports.
VIOLATIONS = {
    "watch knows the ports, never an adapter": [
        ("watch.engine", "agent_mailer.mailbox.maildir"),
        ("watch.engine", "agent_mailer.runtimes.later"),
    ],
    "adapters know neither watch nor cli nor assemble nor state nor config": [
        ("mailbox.maildir.folder", "agent_mailer.watch"),
        ("runtimes.later", "agent_mailer.cli"),
    ],
    "adapters know nothing of each other, and no port knows an adapter": [
        ("mailbox.later", "agent_mailer.mailbox.maildir"),
        ("mailbox.port", "agent_mailer.mailbox.maildir"),
    ],
    "mailbox and runtimes know nothing of each other": [
        ("runtimes.later", "agent_mailer.mailbox.port"),
    ],
    "turn tools know no adapter, no key, no watcher, no network": [
        ("turn_tools.folder", "agent_mailer.config"),
        ("turn_tools.folder", "agent_mailer.mailbox.maildir"),
        ("turn_tools.folder", "httpx"),
    ],
    "the broker knows nothing of a watcher but values to show, nor of its pages": [
        ("broker.app", "agent_mailer.console.mounting"),
        ("broker.app", "agent_mailer.watch"),
        ("broker.app", "agent_mailer.mailbox.port"),
        ("broker.app", "agent_mailer.views.later"),
    ],
    "pages know the broker and what there is to see: no engine, no process, no file": [
        ("console.mounting", "agent_mailer.watch"),
        ("console.mounting", "agent_mailer.process.holder"),
        ("console.mounting", "agent_mailer.disk"),
    ],
    "a resource's rows know nothing of the web": [
        ("broker.users.rows", "fastapi"),
        ("broker.users.rows", "agent_mailer.broker.callers"),
        ("broker.users.rows", "agent_mailer.broker.users.routes"),
    ],
    "process knows no other room": [
        ("process.holder", "agent_mailer.state.folder"),
        ("process.holder", "agent_mailer.mailbox.port"),
    ],
    "only process starts processes": [
        ("disk", "subprocess"),
    ],
    "the engine, its state and its ports know neither views nor people": [
        ("watch.engine", "agent_mailer.views"),
        ("state.folder", "agent_mailer.people"),
        ("mailbox.port", "agent_mailer.views.values"),
        ("assemble", "agent_mailer.setup"),
    ],
    "what a command prints and asks, it gets from rooms that know no command": [
        ("checks.later", "agent_mailer.cli"),
        ("people.folder", "typer"),
        ("teams.running", "agent_mailer.cli"),
        ("live.doorbell", "agent_mailer.cli"),
        ("views.later", "agent_mailer.cli"),
        ("console.mounting", "agent_mailer.cli"),
    ],
    "what there is to see is values, which know nothing": [
        ("views.values.status", "agent_mailer.state.folder"),
        ("views.values.status", "agent_mailer.disk"),
        ("views.values.status", "agent_mailer.views.later"),
    ],
    "the sandbox knows a process, a launch and the ground floor: no engine, no state, no mailbox": [
        ("confine.bwrap", "agent_mailer.state.folder"),
        ("confine.bwrap", "agent_mailer.config"),
    ],
    "adapters are known where something is put together, and where a person's side of them is": [
        ("state.folder", "agent_mailer.runtimes.later"),
        ("watch.engine", "agent_mailer.broker"),
        ("views.later", "agent_mailer.mailbox.maildir"),
        ("teams.running", "agent_mailer.mailbox.maildir"),
    ],
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """An empty package with the rooms of ours, an adapter of each kind."""
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    package = tmp_path / "src" / "agent_mailer"
    for room in ("", *ROOMS):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    for module in MODULES:
        (package / module).with_suffix(".py").touch()
    return package


def test_the_empty_house_is_in_order(house: Path) -> None:
    add_import(house, "watch.engine", "agent_mailer.mailbox.port")
    add_import(house, "watch.engine", "agent_mailer.runtimes.port")
    add_import(house, "mailbox.maildir.folder", "agent_mailer.mailbox.port")
    add_import(house, "turn_tools.folder", "agent_mailer.mailbox.port")
    add_import(house, "assemble", "agent_mailer.mailbox.maildir")
    add_import(house, "assemble", "agent_mailer.watch")
    add_import(house, "cli.app", "agent_mailer.assemble")
    add_import(house, "process.holder", "subprocess")
    add_import(house, "views.values.status", "agent_mailer.views.values")
    add_import(house, "broker.app", "agent_mailer.views.values.status")
    assert broken_rules(house) == set()


@pytest.mark.parametrize(
    ("rule", "module", "imported"),
    thinned((rule, module, imported) for rule, imports in VIOLATIONS.items() for module, imported in imports),
)
def test_a_forbidden_import_is_reported(house: Path, rule: str, module: str, imported: str) -> None:
    add_import(house, module, imported)
    assert rule in broken_rules(house)


def test_a_detour_to_an_adapter_is_reported(house: Path) -> None:
    add_import(house, "disk", "agent_mailer.mailbox.maildir")
    add_import(house, "watch.engine", "agent_mailer.disk")
    assert "watch knows the ports, never an adapter" in broken_rules(house)


def test_every_rule_is_tried() -> None:
    document = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert {contract["name"] for contract in document["tool"]["importlinter"]["contracts"]} == set(VIOLATIONS)


def add_import(house: Path, module: str, imported: str) -> None:
    with house.joinpath(*module.split(".")).with_suffix(".py").open("a") as source:
        source.write(f"import {imported}\n")


def broken_rules(house: Path) -> set[str]:
    """The names of the contracts that the tree under `house` breaks."""
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-logo", "--no-cache"],
        cwd=house.parent.parent,
        env={"PYTHONPATH": str(house.parent), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    broken = set(re.findall(r"^(.*) BROKEN\b", done.stdout, re.MULTILINE))
    assert (done.returncode == 0) == (not broken)
    return broken
