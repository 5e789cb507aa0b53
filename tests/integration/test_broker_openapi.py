"""schemathesis: made-up requests on everything that the OpenAPI names, and no fault of ours in any answer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.broker_process import Account, BrokerProcess, broker, join, register

EXAMPLES = "10"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
SCHEMATHESIS = str(Path(sys.executable).parent / "schemathesis")
ENDS_ACCESS = r"^/users/(api-keys/|logout|me/password)"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrokerProcess, Account]]:
    with broker(tmp_path_factory.mktemp("openapi") / "data") as process:
        account = join(process.url, "ann", process.invite)
        register(process.url, account, "one")
        yield process, account


def run_schemathesis(process: BrokerProcess, account: Account, folder: Path, *arguments: str) -> None:
    headers = [f"--header={name}: {value}" for name, value in {**account.as_person, **account.as_agent}.items()]
    done = subprocess.run(
        [
            *(SCHEMATHESIS, "run", f"{process.url}/openapi.json", "--checks", CHECKS, *headers),
            *("--generation-deterministic", "--generation-database=:memory:", "--no-color", "--workers=1"),
            *("--max-examples", EXAMPLES, "--request-timeout=20", "--exclude-path-regex=/stream$", *arguments),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": ""},
        capture_output=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()[-15_000:] + done.stderr.decode()[-3_000:]
    assert "Traceback" not in process.said(), process.said()[-3000:]


def test_no_request_makes_the_broker_fail(place: tuple[BrokerProcess, Account], tmp_path: Path) -> None:
    run_schemathesis(*place, tmp_path, "--phases=coverage,fuzzing", f"--exclude-path-regex={ENDS_ACCESS}")


def test_nor_do_those_that_end_the_access(place: tuple[BrokerProcess, Account], tmp_path: Path) -> None:
    """Apart, and last: where one of them succeeds, the rest would only see 401."""
    run_schemathesis(*place, tmp_path, "--phases=coverage", f"--include-path-regex={ENDS_ACCESS}")
