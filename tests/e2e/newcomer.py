"""Somebody new to agent-mailer: a home in which it is installed, the agent programs, a model that plays a script."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.desk import until
from tests.e2e.clis import claude_binary
from tests.e2e.fake_anthropic import Answer, FakeAnthropic, Text, Tool
from tests.e2e.walker import YOU, Stage, Walk, walking
from tests.typed import COMMAND

DOCS = Path(__file__).resolve().parents[2] / "docs"
HAIKU = "projects/haiku"
READ = Tool("mcp__agent_mailer__read_message")
DONE = Text("Done.")
Answers = Sequence[Answer]


def reply(body: str) -> Tool:
    return Tool("mcp__agent_mailer__reply", {"body": body})


@contextmanager
def newcomer(home: Path, tmp_path: Path, *, sandbox: str = "off") -> Iterator[Walk]:
    """A home in which agent-mailer is installed, and nothing else. `sandbox` empty: `init` chooses, as for a reader."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    env = {
        "TMPDIR": str(scratch),
        "HOME": str(home),
        "USER": "you",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PATH": install(home),
        "AGENT_MAILER_SANDBOX": sandbox,
    }
    with walking(env, home, tmp_path) as found:
        found.places[str(Path(COMMAND).parent)] = f"{YOU}/.local/share/uv/tools/agent-mailer/bin"
        yield found


def install(home: Path) -> str:
    """Returns the PATH of who has installed agent-mailer in that home: Python and node may lie anywhere."""
    programs = home / ".local" / "bin"
    programs.mkdir(parents=True)
    for name in ("agent-mailer", "amp"):
        (programs / name).symlink_to(Path(COMMAND).with_name(name))
    found = [shutil.which("node"), shutil.which("python3", path=f"{sys.base_prefix}/bin")]
    elsewhere = [str(Path(program).parent) for program in found if program]
    return ":".join(dict.fromkeys([str(programs), *elsewhere, "/usr/local/bin", "/usr/bin", "/bin"]))


def follow(walk: Walk, name: str, stages: Mapping[str, Stage]) -> None:
    walk.follow((DOCS / name).read_text("utf-8"), stages)


def answer_has_come(walk: Walk) -> None:
    """There is new mail for `user`."""
    roots = [*walk.home.glob("**/.agent-mail")]
    until(lambda: any(any(root.glob("agents/user/inbox/new/*.md")) for root in roots), "an answer")


def plays(fake: FakeAnthropic, **said: Answers) -> dict[str, Stage]:
    """Stages at which the model is given what it will say."""
    return {name: partial(_say, fake, answers) for name, answers in said.items()}


def _say(fake: FakeAnthropic, answers: Answers, walk: Walk) -> None:
    fake.says(*answers)


def log_in_to_claude(url: str, walk: Walk) -> None:
    """What `claude auth login` leaves, and where our provider is."""
    folder = walk.home / ".claude"
    folder.mkdir()
    login = {"accessToken": "dummy", "refreshToken": "dummy", "expiresAt": 4102444800000}
    scopes = {"scopes": ["user:inference", "user:profile"], "subscriptionType": "max"}
    (folder / ".credentials.json").write_text(json.dumps({"claudeAiOauth": {**login, **scopes}}))
    (folder / ".credentials.json").chmod(0o600)
    (folder / "settings.json").write_text(json.dumps({"env": {"ANTHROPIC_BASE_URL": url}}))


@contextmanager
def claude_with_its_provider(walk: Walk) -> Iterator[FakeAnthropic]:
    """claude is installed, and this is its provider, who must have been asked for all that it was given to say."""
    (walk.home / ".local/bin/claude").symlink_to(claude_binary())
    with FakeAnthropic() as fake:
        yield fake
        assert not fake.script


def set_up(walk: Walk, *words: str) -> None:
    """The agent of the tutorials, in ~/projects/haiku."""
    (walk.home / HAIKU).mkdir(parents=True)
    walk.behind_the_scenes(
        "init", "--address", "coder", *words, "--permission-mode", "plan", "--maildir-root", ".agent-mail", cwd=HAIKU
    )


def write_to_it(walk: Walk) -> None:
    walk.behind_the_scenes("send", "--to", "coder", "--subject", "A task", "--body", "Please.", cwd=HAIKU)
