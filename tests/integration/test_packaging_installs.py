"""The package as an installer takes it: wheel and sdist, by pip, pipx and uv, each in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.pages import PROJECT
from tests.sizes import LONG

from agent_mailer import __version__

SECONDS = 600


def typed(*words: str | Path, env: Mapping[str, str], cwd: Path) -> str:
    done = subprocess.run([*map(str, words)], env=env, cwd=cwd, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this tree; the wheel is built from the sdist, as an index's would be."""
    folder = tmp_path_factory.mktemp("built")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    typed(*build, "--target", "sdist", env=os.environ, cwd=PROJECT)
    [sdist] = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    [unpacked] = (folder / "unpacked").iterdir()
    typed(*build, "--target", "wheel", env=os.environ, cwd=unpacked)
    return folder


@pytest.fixture(scope="module")
def installers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs `uv` and `pipx`."""
    folder = tmp_path_factory.mktemp("installers")
    typed(sys.executable, "-m", "venv", folder, env=os.environ, cwd=folder)
    typed(folder / "bin" / "pip", "install", "-q", "uv", "pipx", env=os.environ, cwd=folder)
    return folder / "bin"


@pytest.fixture
def home(tmp_path: Path) -> Mapping[str, str]:
    """An environment whose installers write below tmp_path only."""
    return {
        **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "LANG", "SSL_"))},
        "HOME": str(tmp_path),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PIP_CONSTRAINT": str(PROJECT / "constraints.txt"),
        "UV_CONSTRAINT": str(PROJECT / "constraints.txt"),
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
        "PIPX_DEFAULT_PYTHON": sys.executable,
        "PIPX_HOME": str(tmp_path / "pipx"),
        "XDG_DATA_HOME": str(tmp_path / ".local" / "share"),
    }


def works(program: Path, home: Mapping[str, str], folder: Path) -> None:
    """The program says its version, and two agents do one task with it."""
    assert typed(program, "--version", env=home, cwd=folder).strip() == f"agent-mailer {__version__}"
    told = typed(program, "demo", env=home, cwd=folder)
    assert "2 3 5 7 11 13 17 19 23 29" in told
    # This PATH lacks the program; what the demo tells to type makes it known.
    [reach] = [line.strip() for line in told.splitlines() if line.strip().startswith("export PATH=")]
    assert typed("/bin/sh", "-c", f"{reach}\ncommand -v agent-mailer", env=home, cwd=folder).strip() == str(program)


def takes_more(python: Path, home: Mapping[str, str], folder: Path, path: str) -> None:
    """The command that the program names for an extra adds it to the place where it is installed."""
    asked = "from agent_mailer.installed import command_for; print(command_for('metrics'))"
    command = typed(python, "-c", asked, env=home, cwd=folder)
    typed("/bin/sh", "-c", command, env={**home, "PATH": f"{path}:{home['PATH']}"}, cwd=folder)
    typed(python, "-c", "import agent_mailer, prometheus_client", env=home, cwd=folder)


@LONG
def test_pip_installs_the_wheel(built: Path, home: Mapping[str, str], tmp_path: Path) -> None:
    [wheel] = built.glob("*.whl")
    typed(sys.executable, "-m", "venv", tmp_path / "env", env=home, cwd=tmp_path)
    typed(tmp_path / "env" / "bin" / "pip", "install", "-q", wheel, env=home, cwd=tmp_path)
    works(tmp_path / "env" / "bin" / "agent-mailer", home, tmp_path)
    assert (tmp_path / "env" / "share" / "man" / "man1" / "agent-mailer-watch.1").is_file()
    takes_more(tmp_path / "env" / "bin" / "python", home, tmp_path, "")


@LONG
def test_pipx_installs_the_sdist_and_shows_the_manual(
    built: Path, installers: Path, home: Mapping[str, str], tmp_path: Path
) -> None:
    [sdist] = built.glob("*.tar.gz")
    typed(installers / "pipx", "install", sdist, env=home, cwd=tmp_path)
    works(tmp_path / ".local" / "bin" / "agent-mailer", home, tmp_path)
    assert (tmp_path / ".local" / "share" / "man" / "man1" / "agent-mailer.1").exists()
    [python] = (tmp_path / "pipx").glob("venvs/agent-mailer/bin/python")
    takes_more(python, home, tmp_path, str(installers))
    typed(installers / "pipx", "uninstall", "agent-mailer", env=home, cwd=tmp_path)
    assert not (tmp_path / ".local" / "bin" / "agent-mailer").exists()


@LONG
def test_uv_installs_it_with_the_broker(built: Path, installers: Path, home: Mapping[str, str], tmp_path: Path) -> None:
    [wheel] = built.glob("*.whl")
    typed(installers / "uv", "tool", "install", f"agent-mailer[broker] @ {wheel.as_uri()}", env=home, cwd=tmp_path)
    program = tmp_path / ".local" / "bin" / "agent-mailer"
    works(program, home, tmp_path)
    assert "serve" in typed(program, "broker", "--help", env=home, cwd=tmp_path)
    python = tmp_path / ".local" / "share" / "uv" / "tools" / "agent-mailer" / "bin" / "python"
    takes_more(python, home, tmp_path, str(installers))
    typed(installers / "uv", "tool", "uninstall", "agent-mailer", env=home, cwd=tmp_path)
    assert not program.exists()
