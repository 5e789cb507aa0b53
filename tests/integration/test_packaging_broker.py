"""What is shipped to run a broker: the files say what the documents say, and who can check them has no complaint."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from tests.broker_process import LAST_WORDS
from tests.desk import until
from tests.sizes import LONG
from tests.typed import COMMAND, type_in

TOP = Path(__file__).parents[2]
PACKAGING = TOP / "packaging"
UNITS = ("agent-mailer-broker.service", "agent-mailer-broker.socket")


def options_of(command: str) -> set[str]:
    """The options that the program knows there."""
    help_text = type_in(TOP, *command.split()[1:], "--help").out
    return set(re.findall(r"--[a-z][a-z-]*", help_text))


def test_the_image_needs_no_root_and_no_root_that_can_be_written() -> None:
    lines = (PACKAGING / "broker.Dockerfile").read_text().splitlines()
    last_stage = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER 10001:10001" in last_stage
    after = last_stage[last_stage.index("USER 10001:10001") :]
    assert not [line for line in after if line.startswith(("RUN ", "COPY ", "ADD ", "USER 0", "USER root"))]
    assert "VOLUME /data" in after
    compose = yaml.safe_load((TOP / "docker-compose.yml").read_text())
    broker = compose["services"]["broker"]
    assert broker["build"]["dockerfile"] == "packaging/broker.Dockerfile"
    assert (broker["read_only"], broker["cap_drop"], broker["tmpfs"]) == (True, ["ALL"], ["/tmp"])
    assert broker["security_opt"] == ["no-new-privileges:true"]
    assert not broker.get("privileged")


def test_the_compose_file_runs_postgresql_16_with_volumes_for_uploads_and_data() -> None:
    compose = yaml.safe_load((TOP / "docker-compose.yml").read_text())
    database, broker = compose["services"]["database"], compose["services"]["broker"]
    assert database["image"] == "postgres:16"
    assert database["volumes"] == ["database:/var/lib/postgresql/data"]
    assert broker["volumes"] == ["uploads:/data"]
    assert set(compose["volumes"]) == {"database", "uploads"}
    # The database is for the broker alone, the broker for this machine alone.
    assert database["networks"] == ["inside"]
    assert compose["networks"]["inside"]["internal"] is True
    assert "ports" not in database
    assert broker["ports"] == ["127.0.0.1:9800:9800"]
    # Without the secret nothing starts.
    assert broker["environment"]["AGENT_MAILER_SECRET_KEY"].startswith("${AGENT_MAILER_SECRET_KEY:?")
    known = options_of("agent-mailer broker serve")
    assert {word for word in broker["command"] if word.startswith("--")} <= known


@LONG
def test_a_short_secret_is_enough_where_only_this_machine_comes(tmp_path: Path) -> None:
    """As the compose file starts it, but at a free port."""
    compose = yaml.safe_load((TOP / "docker-compose.yml").read_text())
    words = [*compose["services"]["broker"]["command"], "--port", "0"]
    words[words.index("/data")] = str(tmp_path / "data")
    said = tmp_path / "said"
    with said.open("wb") as stream:
        env = {**os.environ, "AGENT_MAILER_SECRET_KEY": "change-this-secret"}
        process = subprocess.Popen([COMMAND, *words], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env)
    try:
        until(lambda: LAST_WORDS in said.read_text() or process.poll() is not None, "the broker's last words")
        assert "guesses it on this machine" in said.read_text()
        found = re.search(r"a broker at (http://\S+)", said.read_text())
        assert found, said.read_text()
        assert httpx.get(f"{found[1]}/ready", trust_env=False).json() == {"ready": True}
        rebound = httpx.get(f"{found[1]}/ready", headers={"Host": "evil.example"}, trust_env=False)
        assert rebound.is_client_error, "no page of a browser here reaches it by a name of its own"
    finally:
        process.kill()
        process.wait()
    words.remove("--published-on-loopback")
    refused = type_in(tmp_path, *words, env={"AGENT_MAILER_SECRET_KEY": "change-this-secret"})
    assert (refused.status, "shorter than 32" in refused.err) == (78, True), refused


@LONG
def test_systemd_has_no_complaint(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None and not os.environ.get("CI"):
        pytest.skip("systemd-analyze is not installed (Debian: the package systemd)")
    assert analyze, "CI needs systemd-analyze (Debian: the package systemd)"
    for name in UNITS:
        text = (PACKAGING / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/agent-mailer/bin/agent-mailer broker", "/bin/true broker"))
    for name in UNITS:
        command = [analyze, "verify", "--man=no", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        about_ours = [line for line in (done.stdout + done.stderr).splitlines() if "agent-mailer-broker" in line]
        assert (done.returncode, about_ours) == (0, []), done


def test_the_unit_takes_what_the_program_takes() -> None:
    unit = (PACKAGING / UNITS[0]).read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert set(re.findall(r"--[a-z-]+", line)) <= options_of("agent-mailer broker serve")
    assert f"Requires={UNITS[1]}" in unit
    # The socket is one of TCP, on the loopback.
    assert "\nListenStream=127.0.0.1:9800\n" in (PACKAGING / UNITS[1]).read_text()


def test_what_stands_in_front_passes_streams_on_and_hides_the_numbers() -> None:
    caddy, nginx = (PACKAGING / "Caddyfile").read_text(), (PACKAGING / "nginx.conf").read_text()
    assert "flush_interval -1" in caddy
    assert "proxy_buffering off" in nginx
    assert "respond /metrics 404" in caddy
    assert "location = /metrics { return 404; }" in nginx
    for text in (caddy, nginx):
        assert "127.0.0.1:9800" in text
        assert set(re.findall(r"--[a-z-]+(?= \S)", text)) <= options_of("agent-mailer broker serve") | {"--config"}
    assert "X-Forwarded-For $remote_addr" in nginx


def _checkout(tmp_path: Path) -> Path:
    """A checkout that is installed: with the program of these tests."""
    checkout = tmp_path / "a checkout"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(TOP / "run.sh", checkout)
    (checkout / ".venv" / "bin" / "agent-mailer").symlink_to(COMMAND)
    return checkout


@LONG
def test_run_sh_serves_with_what_stands_in_the_file_beside_it(tmp_path: Path) -> None:
    checkout = _checkout(tmp_path)
    assert (TOP / "run.sh").stat().st_mode & stat.S_IXUSR
    planted = tmp_path / "planted"
    (checkout / ".env").write_text(
        "# a comment\n\nAGENT_MAILER_SECRET_KEY=change-this-secret\n"
        f'export DATABASE_URL="sqlite:///{tmp_path}/mail/agent_mailer.db"\n'
        f"NEVER_RUN=$(touch {planted})\nAGENT_MAILER_DOMAIN=from.the.file\r\nno assignment\n"
    )
    said = tmp_path / "said"
    with said.open("wb") as stream:
        env = {key: value for key, value in os.environ.items() if key != "AGENT_MAILER_SECRET_KEY"}
        env["AGENT_MAILER_DOMAIN"] = "from.the.environment"
        words = [str(checkout / "run.sh"), "--port", "0"]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env, cwd=tmp_path)
    try:
        until(lambda: LAST_WORDS in said.read_text() or process.poll() is not None, "the broker's last words")
        assert "The invite code of the first user is" in said.read_text(), said.read_text()
        assert (tmp_path / "mail" / "agent_mailer.db").exists()
        assert not planted.exists()
        (url,) = re.findall(r"a broker at (http://\S+)", said.read_text())
        capabilities = httpx.get(f"{url}/.well-known/agent-mailer", trust_env=False).text
        assert "from.the.file" not in capabilities
    finally:
        # The script became the broker: it gets the signal itself.
        process.terminate()
        assert process.wait(30) == 0


def test_run_sh_says_what_is_missing(tmp_path: Path) -> None:
    shutil.copy(TOP / "run.sh", tmp_path)
    done = subprocess.run(
        [str(tmp_path / "run.sh")],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "uv sync" in done.stderr
