"""Every tutorial in docs/, followed in an empty home: each command as it stands there, each answer as it is shown.

The agent programs are the real ones; the model they ask is a script on the loopback, and what needs a person (a login
in a browser) or the network is done here behind the scenes.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.broker_desk import BrokerDesk, Person
from tests.desk import until
from tests.e2e.clis import claude_binary, codex_binary
from tests.e2e.fake_anthropic import Answer, Failure, FakeAnthropic, Text, Tool, usage_limit
from tests.e2e.fake_openai import Mail, Say, Shell, Step, closed_port, fake_openai
from tests.e2e.walker import YOU, Stage, Walk, walking
from tests.integration.test_takeover import Left
from tests.plain_broker import running_plain_broker
from tests.typed import COMMAND
from tests.user_manager import UserManager, user_manager

DOCS = Path(__file__).resolve().parents[2] / "docs"
READ = Tool("mcp__agent_mailer__read_message")
DONE = Text("Done.")
HAIKU = "projects/haiku"


def reply(body: str) -> Tool:
    return Tool("mcp__agent_mailer__reply", {"body": body})


@pytest.fixture
def walk(home: Path, tmp_path: Path) -> Iterator[Walk]:
    """A home in which agent-mailer is installed, and nothing else."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    env = {"HOME": str(home), "USER": "you", "LANG": "C.UTF-8", "PATH": _install(home), "TMPDIR": str(scratch)}
    with walking(env, home, tmp_path) as found:
        found.places[str(Path(COMMAND).parent)] = f"{YOU}/.local/share/uv/tools/agent-mailer/bin"
        yield found


def _install(home: Path) -> str:
    """Returns the PATH of who has installed agent-mailer in that home."""
    programs = home / ".local" / "bin"
    programs.mkdir(parents=True)
    (programs / "agent-mailer").symlink_to(COMMAND)
    return f"{programs}:{_node()}/usr/local/bin:/usr/bin:/bin"


def _node() -> str:
    """codex is started by node, which may lie anywhere."""
    node = shutil.which("node")
    return f"{Path(node).parent}:" if node else ""


def follow(walk: Walk, name: str, stages: Mapping[str, Stage]) -> None:
    walk.follow((DOCS / name).read_text("utf-8"), stages)


def answer_has_come(walk: Walk) -> None:
    """There is new mail for `user`."""
    roots = [*walk.home.glob("**/.agent-mail")]
    until(lambda: any(any(root.glob("agents/user/inbox/new/*.md")) for root in roots), "an answer")


Answers = Sequence[Answer]


def plays(fake: FakeAnthropic, **said: Answers) -> dict[str, Stage]:
    """Stages at which the model is given what it will say."""
    return {name: partial(_say, fake, answers) for name, answers in said.items()}


def _say(fake: FakeAnthropic, answers: Answers, walk: Walk) -> None:
    fake.says(*answers)


def log_in_to_claude(fake: FakeAnthropic, walk: Walk) -> None:
    """What `claude auth login` leaves, and where our provider is."""
    folder = walk.home / ".claude"
    folder.mkdir()
    login = {"accessToken": "dummy", "refreshToken": "dummy", "expiresAt": 4102444800000}
    scopes = {"scopes": ["user:inference", "user:profile"], "subscriptionType": "max"}
    (folder / ".credentials.json").write_text(json.dumps({"claudeAiOauth": {**login, **scopes}}))
    (folder / ".credentials.json").chmod(0o600)
    (folder / "settings.json").write_text(json.dumps({"env": {"ANTHROPIC_BASE_URL": fake.url}}))


@pytest.fixture
def claude(walk: Walk) -> Iterator[FakeAnthropic]:
    """claude is installed, and this is its provider, who must have been asked for all that it was given to say."""
    (walk.home / ".local/bin/claude").symlink_to(claude_binary())
    with FakeAnthropic() as fake:
        yield fake
        assert not fake.script


def test_the_readme(walk: Walk) -> None:
    follow(walk, "../README.md", {})


def test_claude_code(walk: Walk, claude: FakeAnthropic) -> None:
    poem = "Rain on the tin roof\nthe watcher sleeps, wakes, and sleeps\na letter arrives\n"
    rain = {"file_path": str(walk.home / "projects/haiku/rain.txt"), "content": poem}
    check = Tool("Bash", {"command": "make check", "description": "run the checks"})
    stages = plays(
        claude,
        says_pong=[READ, reply("pong"), DONE],
        writes_a_haiku=[READ, Tool("Write", rain), reply("It is in rain.txt: Rain on the tin roof"), DONE],
        knows_it_again=[READ, reply("Three, as a haiku should."), DONE],
        wants_to_run_make=[READ, check, Text(""), Text("")],
        may_run_make=[READ, check, reply("It says: all is well."), DONE],
    )
    stages |= {"logged_in": partial(log_in_to_claude, claude), "answer_has_come": answer_has_come}
    follow(walk, "tutorial-claude-code.md", stages)


def test_codex(walk: Walk) -> None:
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
    stages |= {"logged_in": partial(log_in_to_claude, claude), "trouble_is_seen": trouble_is_seen}
    follow(walk, "tutorial-broker.md", stages)


def test_the_workdir_of_another_client(walk: Walk, claude: FakeAnthropic) -> None:
    """At a broker without our extensions, with files byte for byte as that client writes them."""
    base = walk.home / "agents"
    base.mkdir()
    with running_plain_broker(walk.scratch) as broker:
        log_in_to_claude(claude, walk)
        person = broker.person("alice")
        walk.same = {"https://amp.example.org": broker.url}
        turn: Answers = [READ, reply("It is done."), DONE]
        stages = plays(claude, answers=[*turn, *turn], answers_the_revived=turn)
        stages["left_by_another_client"] = lambda walk: _leave(base, broker, person)
        follow(walk, "tutorial-amp-workdir.md", stages)
        walk.close()  # the watcher before the broker


def _leave(base: Path, broker: BrokerDesk, person: Person) -> None:
    Left(base, broker, person)


def set_up(walk: Walk, *words: str) -> None:
    """The agent of the tutorials, in ~/projects/haiku."""
    (walk.home / HAIKU).mkdir(parents=True)
    walk.behind_the_scenes(
        "init", "--address", "coder", *words, "--permission-mode", "plan", "--maildir-root", ".agent-mail", cwd=HAIKU
    )


def write_to_it(walk: Walk) -> None:
    walk.behind_the_scenes("send", "--to", "coder", "--subject", "A task", "--body", "Please.", cwd=HAIKU)


def test_any_program(walk: Walk) -> None:
    follow(walk, "any-program.md", {})


def test_several_agents(walk: Walk) -> None:
    def two_answers(walk: Walk) -> None:
        new = walk.home / "projects/shop/.agent-mail/agents/user/inbox/new"
        until(lambda: len([*new.glob("*.md")]) == 2, "two answers")

    follow(walk, "several-agents.md", {"answer_has_come": answer_has_come, "two_answers_have_come": two_answers})


def test_when_something_is_wrong(walk: Walk, claude: FakeAnthropic) -> None:
    """One message meets one fault after the other."""
    state = walk.home / HAIKU / ".agent-mailer"
    limit, refusal = usage_limit(time.time() + 7200), Failure(403, "permission_error", "not allowed")

    def an_agent_works(walk: Walk) -> None:
        log_in_to_claude(claude, walk)
        set_up(walk, "--runtime", "claude", "--max-retries", "0")
        walk.terminal("watcher").type(f"cd ~/{HAIKU}\nagent-mailer watch\n", stays=True)

    def a_limit_is_met(walk: Walk) -> None:
        from_now_on(limit)(walk)
        write_to_it(walk)
        holds("pause.json", "limited")(walk)

    def from_now_on(answer: Answer) -> Stage:
        return lambda walk: setattr(claude, "default", answer)

    def holds(name: str, word: str) -> Stage:
        path = state / name
        return lambda walk: until(lambda: path.exists() and word in path.read_text(), f"{name} with {word}")

    stages = {
        "an_agent_works": an_agent_works,
        "a_limit_is_met": a_limit_is_met,
        "the_login_is_refused": from_now_on(refusal),
        "it_is_signed_out": holds("pause.json", "signed_out"),
        "the_turn_fails": from_now_on(Text("", stop="max_tokens")),
        "it_is_given_up": holds("dead_letter.jsonl", "failed"),
        "works_again": from_now_on(Text("It is done.")),
    }
    follow(walk, "when-something-is-wrong.md", stages)


def test_notices(walk: Walk) -> None:
    told: list[dict[str, str]] = []

    def an_agent_is_set_up(walk: Walk) -> None:
        set_up(walk, "--runtime", "command", "--command", "agent-mailer mail finish --blocked 'A or B?'")

    def it_asks(walk: Walk) -> None:
        write_to_it(walk)
        walk.behind_the_scenes("watch", "--once", cwd=HAIKU)

    with listening(told) as url:

        def a_webhook_listens(walk: Walk) -> None:
            (walk.home / ".config/agent-mailer/webhook").write_text(f"{url}\n")

        stages = {
            "an_agent_is_set_up": an_agent_is_set_up,
            "the_agent_asks": it_asks,
            "the_agent_asks_again": it_asks,
            "a_webhook_listens": a_webhook_listens,
        }
        follow(walk, "notices.md", stages)
    assert ["coder asks a human" in one["text"] for one in told] == [True]


@contextmanager
def listening(told: list[dict[str, str]]) -> Iterator[str]:
    """A webhook on the loopback that keeps what it is told."""

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_service(tmp_path: Path) -> None:
    """Under a real service manager of a user."""

    def an_agent_is_set_up(walk: Walk) -> None:
        (walk.home / ".local/bin/claude").symlink_to(claude_binary())
        set_up(walk, "--runtime", "claude")

    with user_manager() as manager:
        env = {**manager.env, "PATH": _install(manager.home)}
        with walking(env, manager.home, tmp_path, partial(_inside, manager)) as walk:
            user = manager.env["USER"]
            walk.places |= {f"{words} {user}": f"{words} you" for words in ("enable-linger", "of")}
            follow(walk, "tutorial-service.md", {"an_agent_is_set_up": an_agent_is_set_up})


def _inside(manager: UserManager, argv: Sequence[str]) -> list[str]:
    return [*manager._enter, str(manager.home), *argv]
