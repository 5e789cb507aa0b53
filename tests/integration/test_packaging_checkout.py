"""In a checkout the lines by which people know the protocol's broker work as they stand: uv, `.env`, `./run.sh`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from tests.broker_process import LAST_WORDS
from tests.desk import until
from tests.pages import PROJECT
from tests.sizes import LONG

SECONDS = 900
pytestmark = LONG


def typed(*words: str | Path, env: Mapping[str, str], cwd: Path) -> str:
    done = subprocess.run([*map(str, words)], env=env, cwd=cwd, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What git would give to somebody who clones this tree as it is now."""
    found = typed("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", env=os.environ, cwd=PROJECT)
    copy = tmp_path / "checkout"
    for name in filter(None, found.split("\0")):
        if (PROJECT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, copy / name)
    return copy


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    """Of somebody who has uv on the PATH and writes below tmp_path only."""
    typed(sys.executable, "-m", "venv", tmp_path / "uv", env=os.environ, cwd=tmp_path)
    typed(tmp_path / "uv" / "bin" / "pip", "install", "-q", "uv", env=os.environ, cwd=tmp_path)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "uv").symlink_to(tmp_path / "uv" / "bin" / "uv")
    return {
        **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "LANG", "SSL_"))},
        "HOME": str(tmp_path),
        "PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin",
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_CACHE_DIR": str(tmp_path / "cache"),
    }


def test_each_line_as_it_stands(checkout: Path, env: Mapping[str, str], tmp_path: Path) -> None:
    typed("uv", "sync", env=env, cwd=checkout)
    (checkout / ".env").write_text("AGENT_MAILER_SECRET_KEY=change-this-secret\n")
    file = tmp_path / "mail" / "agent_mailer.db"
    said = tmp_path / "said"
    with said.open("wb") as stream:
        process = subprocess.Popen(
            ["./run.sh", "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**env, "DATABASE_URL": f"sqlite:///{file}"},
            cwd=checkout,
        )
    try:
        until(lambda: LAST_WORDS in said.read_text() or process.poll() is not None, "the broker's last words", 60)
        (url,) = re.findall(r"a broker at (http://\S+)", said.read_text())
        (code,) = set(re.findall(r"--invite (\w{8})", said.read_text()))
        form = {"username": "first", "password": "correct horse battery", "invite_code": code}
        registered = httpx.post(f"{url}/users/register", json=form, trust_env=False)
        assert (registered.status_code, registered.json()["is_superadmin"]) == (201, True), registered.text
        assert httpx.get(f"{url}/setup.md", trust_env=False).status_code == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0, said.read_text()
    assert file.exists()
    collected = typed("uv", "run", "pytest", "tests/", "-v", "--collect-only", "-q", env=env, cwd=checkout)
    assert int(re.findall(r"(\d+)/\d+ tests collected", collected)[0]) > 3000
    ran = typed("uv", "run", "pytest", "tests/unit/test_names.py", "-v", env=env, cwd=checkout)
    assert re.search(r"\d\d+ passed", ran), ran[-2000:]
