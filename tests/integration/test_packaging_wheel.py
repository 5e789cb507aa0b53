"""What is in the wheel, and that templates are found in a wheel and in an editable install."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
TEMPLATES = ("fresh", "resumed", "lost", "rerun")

SHOW_TEMPLATE = """
import sys, agent_mailer
from agent_mailer.prompts import shipped_template
print(agent_mailer.__file__)
sys.stdout.write(shipped_template(sys.argv[1]))
"""


SHOW_UNIT = """
import sys, agent_mailer
from agent_mailer.service.unit import shipped_template
print(agent_mailer.__file__)
sys.stdout.write(shipped_template())
"""


SHOW_PLUGIN = """
import sys, agent_mailer
from pathlib import Path
from agent_mailer.live.shipped import Target, files_of
print(agent_mailer.__file__)
for data in files_of(Target.CLAUDE, Path("/bin/agent-mailer"), "1").values():
    sys.stdout.write(data.decode())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, built without network: hatchling is in the dev group."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content alone, as an installer would unpack it."""
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_holds_the_program_and_its_templates_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name.removeprefix("agent_mailer/templates/") for name in names if "/templates/" in name}
    assert {
        path.relative_to(PROJECT / "templates").as_posix() for path in (PROJECT / "templates").rglob("*.md")
    } <= shipped
    assert {f"{name}.md" for name in TEMPLATES} <= shipped
    assert "agent_mailer/py.typed" in names
    assert "agent_mailer/packaging/agent-mailer@.service" in names
    plugins = PROJECT / "packaging" / "plugins"
    carried = {path.relative_to(plugins).as_posix() for path in plugins.rglob("*") if path.is_file()}
    assert carried == {
        name.removeprefix("agent_mailer/packaging/plugins/") for name in names if "/packaging/plugins/" in name
    }
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name and ".data/" not in name} == {
        "agent_mailer"
    }
    manual = {name.rpartition("/")[2] for name in names if ".data/data/share/man/man1/" in name}
    assert manual == {path.name for path in (PROJECT / "packaging" / "man").iterdir()}
    assert not [name for name in names if ".data/" in name and name.rpartition("/")[2] not in manual]
    assert not [name for name in names if "test_" in name or name.endswith(".pyc")]


def test_the_wheel_names_its_licence_and_its_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (licence,) = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
    assert archive.read(licence) == (PROJECT / "LICENSE").read_bytes()
    (commands,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
    assert "agent-mailer = agent_mailer.cli.entry:main" in archive.read(commands).decode()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_found_in_the_installed_wheel(installed: Path, name: str, tmp_path: Path) -> None:
    # PYTHONPATH comes before the site-packages, which only have to offer the dependencies.
    where, text = show_template(name, tmp_path, PYTHONPATH=str(installed))
    assert where.is_relative_to(installed)
    assert text == (PROJECT / "templates" / f"{name}.md").read_text()


def test_the_unit_is_found_in_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    where, text = show(SHOW_UNIT, tmp_path, PYTHONPATH=str(installed))
    assert where.is_relative_to(installed)
    assert text == (PROJECT / "packaging" / "agent-mailer@.service").read_text()


def test_a_plugin_is_found_in_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    where, text = show(SHOW_PLUGIN, tmp_path, PYTHONPATH=str(installed))
    assert where.is_relative_to(installed)
    assert "/bin/agent-mailer" in text


def test_a_template_is_found_in_the_editable_install(tmp_path: Path) -> None:
    where, text = show_template("fresh", tmp_path)
    assert where.is_relative_to(PROJECT / "src")
    assert text == (PROJECT / "templates" / "fresh.md").read_text()


def show_template(name: str, folder: Path, **environment: str) -> tuple[Path, str]:
    return show(SHOW_TEMPLATE, folder, name, **environment)


def show(script: str, folder: Path, *words: str, **environment: str) -> tuple[Path, str]:
    """Where agent_mailer was imported from in a new process, and what the script says then."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    shown = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=folder,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    where, _, text = shown.stdout.partition("\n")
    return Path(where), text
