"""schemathesis: made-up requests on everything that the OpenAPI names, and no fault of ours in any answer."""

from __future__ import annotations

import os
import random
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from tests.broker_process import Account, BrokerProcess, broker, join, register
from tests.databases import database_of
from tests.sizes import sizes

pytestmark = pytest.mark.usefixtures("each_database")
SEED = os.environ.get("SCHEMATHESIS_SEED", "20261121")
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "3")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
SCHEMATHESIS = str(Path(sys.executable).parent / "schemathesis")
ENDS_ACCESS = r"^/users/(api-keys/|logout|me/password)"
SOME = sizes(quick=20, long=1)
"""One path in so many, by lot."""


class Place(NamedTuple):
    process: BrokerProcess
    account: Account


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[Place]:
    with broker(tmp_path_factory.mktemp("openapi") / "data") as process:
        account = join(process.url, "ann", process.invite)
        yield Place(process, account)


def run_schemathesis(place: Place, folder: Path, *arguments: str) -> None:
    process, account = place
    headers = [f"--header={name}: {value}" for name, value in {**account.as_person, **account.as_agent}.items()]
    done = subprocess.run(
        [
            *(SCHEMATHESIS, "run", f"{process.url}/openapi.json", "--checks", CHECKS, *headers),
            *("--generation-deterministic", "--no-color", "--workers=1"),
            *("--max-examples", EXAMPLES, "--request-timeout=20", "--exclude-path-regex=/stream$", *arguments),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": ""},
        capture_output=True,
        timeout=1000,  # the test has less or more, by its size
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()[-15_000:] + done.stderr.decode()[-3_000:]
    assert "Traceback" not in process.said(), process.said()[-3000:]


def paths(place: Place, one_in: int, *, end_access: bool = False) -> str:
    """The option that chooses them."""
    spec = httpx.get(f"{place.process.url}/openapi.json", trust_env=False, timeout=60).raise_for_status().json()
    ours = [path for path in sorted(spec["paths"]) if bool(re.match(ENDS_ACCESS, path)) == end_access]
    # What a value does to the program is seen at either; PostgreSQL takes fewer of them.
    one_in *= 3 if database_of(Path()).startswith("sqlite") else 1
    chosen = random.Random(SEED).sample(ours, max(1, len(ours) // one_in))
    return f"--include-path-regex=^({'|'.join(map(re.escape, chosen))})$"


def real_names(place: Place) -> dict[str, str]:
    """What is there: with it the calls come past the look whether it is."""
    url, account = place.process.url, place.account
    one = register(url, account, f"one-{secrets.token_hex(4)}")  # one for each size of the test
    with httpx.Client(base_url=url, trust_env=False, headers={**account.as_agent, **account.as_person}) as client:
        body = {"agent_id": one["id"], "from_agent": one["address"], "to_agent": one["address"], "body": "x"}
        message = client.post("/messages/send", json=body).raise_for_status().json()
        away = client.post("/messages/send", json=body).raise_for_status().json()["id"]
        client.post(f"/admin/messages/{away}/trash").raise_for_status()
        team = client.post("/admin/teams", json={"name": f"team-{secrets.token_hex(4)}"}).raise_for_status().json()
        note = {"title": "t", "content": "c"}
        memory = client.post(f"/admin/teams/{team['id']}/memories", json=note).raise_for_status().json()
        channel = client.post("/channels", json={"agent_id": one["id"]}).raise_for_status().json()
        hook = client.post("/admin/hooks", json={"name": f"h{secrets.token_hex(4)}", "to": one["address"]})
        made = hook.raise_for_status().json()["hook"]
    return {
        "path.hook_id": made["id"],
        "path.hook_name": made["path"].rpartition("/")[2],
        "path.token": channel["join_token"],
        "path.memory_id": memory["id"],
        "path.agent_id": one["id"],
        "query.agent_id": one["id"],
        "body.agent_id": one["id"],
        "body.from_agent": one["address"],
        "body.to_agent": one["address"],
        "body.parent_id": message["id"],
        "path.address": one["address"],
        "path.message_id": message["id"],
        "path.thread_id": message["thread_id"],
        "path.team_id": team["id"],
        "path.trashed_id": away,
        "header.X-Agent-Mailer-Watcher": "w",
    }


@pytest.mark.parametrize("one_in", sizes(quick=120, long=1))
def test_no_request_makes_the_broker_fail(place: Place, tmp_path: Path, one_in: int) -> None:
    run_schemathesis(place, tmp_path, "--phases=coverage", paths(place, one_in))


@pytest.mark.parametrize("one_in", sizes(quick=80, long=1))
def test_nor_does_one_about_what_is_there(place: Place, tmp_path: Path, one_in: int) -> None:
    named = "".join(f"{name!r} = {value!r}\n" for name, value in real_names(place).items())
    (tmp_path / "schemathesis.toml").write_text(f"[parameters]\n{named}")
    # Not what takes it away.
    run_schemathesis(place, tmp_path, "--phases=fuzzing", "--exclude-method=DELETE", paths(place, one_in))


@pytest.mark.parametrize("one_in", SOME)
def test_nor_do_those_that_end_the_access(place: Place, tmp_path: Path, one_in: int) -> None:
    """Apart, and last: where one of them succeeds, the rest would only see 401."""
    run_schemathesis(place, tmp_path, "--phases=coverage", paths(place, one_in, end_access=True))
