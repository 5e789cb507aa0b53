"""Every tutorial in docs/, followed in an empty home: each command as it stands there, each answer as it is shown.

The agent programs are the real ones; the model they ask is a script on the loopback, and what needs a person (a login
in a browser) or the network is done here behind the scenes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from tests.broker_desk import BrokerDesk, Person
from tests.desk import until
from tests.e2e.clis import claude_binary, codex_binary
from tests.e2e.fake_anthropic import FakeAnthropic, Text, Tool
from tests.e2e.fake_openai import Mail, Say, Shell, Step, closed_port, fake_openai
from tests.e2e.newcomer import (
    DONE,
    READ,
    Answers,
    answer_has_come,
    claude_with_its_provider,
    follow,
    install,
    log_in_to_claude,
    newcomer,
    plays,
    reply,
    set_up,
)
from tests.e2e.walker import Stage, Walk, walking
from tests.integration.test_takeover import Left
from tests.plain_broker import running_plain_broker
from tests.sizes import LONG
from tests.user_manager import UserManager, user_manager

pytestmark = LONG


@pytest.fixture
def walk(home: Path, tmp_path: Path) -> Iterator[Walk]:
    with newcomer(home, tmp_path, sandbox="") as found:
        yield found


@pytest.fixture
def walk_apart(tmp_path: Path) -> Iterator[Walk]:
    """Not below /tmp: codex makes no helpers in a home that lies there, and needs them for its own sandbox."""
    place = "/var/lib" if os.access("/var/lib", os.W_OK) else str(tmp_path)
    with (
        tempfile.TemporaryDirectory(dir=place, prefix="agent-mailer-test-") as folder,
        newcomer(Path(folder) / "home", tmp_path, sandbox="") as found,
    ):
        yield found


@pytest.fixture
def claude(walk: Walk) -> Iterator[FakeAnthropic]:
    with claude_with_its_provider(walk) as fake:
        yield fake


def test_claude_code(walk: Walk, claude: FakeAnthropic) -> None:
    poem = "Rain on the tin roof\nthe watcher sleeps, wakes, and sleeps\na letter arrives\n"
    rain = {"file_path": str(walk.home / "projects/haiku/rain.txt"), "content": poem}
    check = Tool("Bash", {"command": "sh check.sh", "description": "run the checks"})
    stages = plays(
        claude,
        says_pong=[READ, reply("pong"), DONE],
        writes_a_haiku=[READ, Tool("Write", rain), reply("It is in rain.txt: Rain on the tin roof"), DONE],
        knows_it_again=[READ, reply("Three, as a haiku should."), DONE],
        wants_to_run_it=[READ, check, Text(""), Text("")],
        may_run_it=[READ, check, reply("It says: all is well."), DONE],
    )
    stages |= {"logged_in": partial(log_in_to_claude, claude.url), "answer_has_come": answer_has_come}
    follow(walk, "tutorial-claude-code.md", stages)
    # One session: what was denied first ran then.
    assert claude.requests[-1].tool_results.count("all is well") == 1


def test_codex(walk_apart: Walk) -> None:
    walk = walk_apart
    (walk.home / ".local/bin/codex").symlink_to(codex_binary())
    with fake_openai() as fake:

        def logged_in(walk: Walk) -> None:
            folder = walk.home / ".codex"
            folder.mkdir()
            (folder / "auth.json").write_text(json.dumps({"auth_mode": "apikey", "OPENAI_API_KEY": "dummy"}))
            provider = f'[model_providers.fake]\nname = "fake"\nbase_url = "{fake.url}"\n'
            (folder / "config.toml").write_text(f'model_provider = "fake"\n{provider}')

        def saying(*steps: Step) -> Stage:
            return lambda walk: fake.script(*steps)

        script = "i=2; while [ $i -lt $1 ]; do factor $i | grep -q ': [0-9]*$' && echo $i; i=$((i+1)); done"
        write = Shell(f"cat > primes.sh <<'EOF'\n{script}\nEOF\nsh primes.sh 20")
        stages = {
            "logged_in": logged_in,
            "says_pong": saying(Mail("read_message"), Mail("reply", {"body": "pong"}), Say("Done.")),
            "writes_a_script": saying(
                Mail("read_message"), write, Mail("reply", {"body": "2 3 5 7 11 13 17 19"}), Say("Done.")
            ),
            "knows_it_again": saying(Mail("read_message"), Say("A prime has two divisors, and 1 has one.")),
        }
        follow(walk, "tutorial-codex.md", stages)
        assert not fake.left


def test_a_broker(walk: Walk, claude: FakeAnthropic) -> None:
    port = closed_port()
    walk.same = {"broker serve\n": f"broker serve --port {port}\n", "127.0.0.1:9800": f"127.0.0.1:{port}"}

    def trouble_is_seen(walk: Walk) -> None:
        until((walk.home / "agents/coder/.agent-mailer/trouble.json").exists, "the watcher misses its broker")

    stages = plays(claude, answers=[READ, reply("I am coder."), DONE])
    stages |= {"logged_in": partial(log_in_to_claude, claude.url), "trouble_is_seen": trouble_is_seen}
    follow(walk, "tutorial-broker.md", stages)


def test_the_workdir_of_another_client(walk: Walk, claude: FakeAnthropic) -> None:
    """At a broker without our extensions, with files byte for byte as that client writes them."""
    base = walk.home / "agents"
    base.mkdir()
    with running_plain_broker(walk.scratch) as broker:
        log_in_to_claude(claude.url, walk)
        person = broker.person("alice")
        walk.same = {"https://amp.example.org": broker.url}
        turn: Answers = [READ, reply("It is done."), DONE]
        stages = plays(claude, answers=[*turn, *turn], answers_the_revived=turn)
        stages["left_by_another_client"] = lambda walk: _leave(base, broker, person)
        follow(walk, "tutorial-amp-workdir.md", stages)
        walk.close()  # the watcher before the broker


def _leave(base: Path, broker: BrokerDesk, person: Person) -> None:
    Left(base, broker, person)


def test_a_service(tmp_path: Path) -> None:
    """Under a real service manager of a user."""

    def an_agent_is_set_up(walk: Walk) -> None:
        (walk.home / ".local/bin/claude").symlink_to(claude_binary())
        log_in_to_claude("http://127.0.0.1:9", walk)
        set_up(walk, "--runtime", "claude")

    with user_manager() as manager:
        env = {**manager.env, "PATH": install(manager.home)}
        with walking(env, manager.home, tmp_path, partial(_inside, manager)) as walk:
            user = manager.env["USER"]
            walk.places |= {f"{words} {user}": f"{words} you" for words in ("enable-linger", "of")}
            follow(walk, "tutorial-service.md", {"an_agent_is_set_up": an_agent_is_set_up})


def _inside(manager: UserManager, argv: Sequence[str]) -> list[str]:
    return [*manager._enter, str(manager.home), *argv]
