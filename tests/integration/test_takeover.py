"""A workdir that another AMP client has made, byte for byte as it writes it, taken over as it is."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.broker_desk import BrokerDesk, Person, running_broker
from tests.plain_broker import running_plain_broker
from tests.sizes import LONG
from tests.typed import Typed, type_in

THEN = "2026-11-20T08:15:00.123456+00:00"
_SERIAL = itertools.count()
OURS, PLAIN = "our broker", "a plain broker"
LOG = (
    {"event": "watch_started", "agent": "coder", "address": "a", "dry_run": False, "project_dir": None},
    {"event": "inflight_recovery", "msg_id": "m", "decision": "retry", "age_seconds": 901.5, "retry_count": 1},
    {"event": "poll_inbox", "total": 3, "unread": 3, "new": 1, "dead_letter": 1},
    {"event": "process_start", "msg_id": "m", "subject": "\\u001b[31m", "from_agent": "x", "dry_run": False},
    {"event": "runtime_failed", "return_code": 1, "duration_ms": 12, "stderr_tail": "boom"},
    {"event": "process_done", "msg_id": "m", "duration_ms": 1200, "cost_usd": 0.1},
)


@pytest.fixture(scope="module", params=[PLAIN, pytest.param(OURS, marks=LONG)])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    start = running_broker if request.param == OURS else running_plain_broker
    with start(tmp_path_factory.mktemp("broker")) as desk:
        yield desk


@pytest.fixture
def ann(broker: BrokerDesk) -> Person:
    return broker.person(f"ann-{next(_SERIAL)}")


class Left:
    """What the other client has left in its workdir: one message of each kind that its state can speak of."""

    def __init__(self, base: Path, broker: BrokerDesk, person: Person) -> None:
        self.broker = broker
        self.person = person
        self.workdir = base / "coder"
        self.workdir.mkdir()
        self.me = broker.agent(person, "coder")
        self.boss = broker.agent(person, "boss")
        self.processed, self.read, self.dead, self.inflight, self.tried = (
            self.send(name) for name in ("processed", "read", "dead", "inflight", "tried")
        )
        # The agent was asked to mark what it reads: this one it had read when everything broke off.
        self.mark_read(self.inflight)
        self.mark_read(self.read)
        self.write()

    def send(self, body: str) -> dict[str, Any]:
        sent: dict[str, Any] = self.broker.send(self.person, self.boss, self.me["address"], subject=body, body=body)
        return sent

    def mark_read(self, message: dict[str, Any]) -> None:
        self.broker.call("PATCH", f"/messages/{message['id']}/read", headers=self.person.header)

    def write(self) -> None:
        state = self.workdir / ".agent-mailer"
        state.mkdir(mode=0o700)
        (state / "memory").mkdir(mode=0o700)
        session = {"first_seen_at": THEN, "last_used_at": THEN, "session_id": "5e55", "turn_count": 3}
        inflight = {
            "msg_id": self.inflight["id"],
            "thread_id": self.inflight["thread_id"],
            "started_at": THEN,
            "retry_count": 0,
        }
        dead = {
            "msg_id": self.dead["id"],
            "thread_id": self.dead["thread_id"],
            "retries": 3,
            "last_error": "exit 1",
            "stuck_at": THEN,
        }
        files = {
            "config.toml": CONFIG.format(url=self.broker.url, key=self.person.key, **self.me),
            ".lock": "pid=12424\n99\n",
            "processed.txt": f"{self.read['id']}\n{self.processed['id']}\n{self.dead['id']}\n0ld-dead\n",
            "cursor.txt": f"{self.processed['id']}\n",
            "inflight.json": json.dumps(inflight, indent=2),
            "sessions.json": json.dumps({self.read["thread_id"]: session}, indent=2, sort_keys=True),
            "retries.json": json.dumps({self.tried["id"]: 1}, indent=2, sort_keys=True),
            "dead_letter.jsonl": json.dumps({"ts": THEN, "msg_id": "0ld-dead", "reason": "x"})
            + "\n"
            + json.dumps(dead)
            + "\n",
            "log.jsonl": "".join(json.dumps({"ts": THEN, **record}) + "\n" for record in LOG),
            "memory/global.md": "# Global Memory for coder\n\n## Facts\n",
            ".tmp.sessions.json.x1": "{",
            "partial_setup_pending": "{}",
        }
        for name, text in files.items():
            (state / name).write_text(text)
            (state / name).chmod(0o644 if name == "processed.txt" else 0o600)
        (self.workdir / "AGENT.md").write_text(AGENT_MD.format(url=self.broker.url, **self.me))
        (self.workdir / ".gitignore").write_text(".agent-mailer/\n")

    def agent(self, script: str) -> None:
        """The agent program is a shell script from now on."""
        path = self.workdir / ".agent-mailer" / "config.toml"
        text = path.read_text().replace('runtime = "claude"', 'runtime = "command"')
        path.write_text(text + f"command = ['/bin/sh', '-c', '''{script}''']\n")

    def type(self, *words: str) -> Typed:
        done = type_in(self.workdir, *words)
        assert self.person.key not in done.out + done.err
        return done

    def unread(self) -> list[str]:
        path = f"/messages/inbox/{self.me['address']}?agent_id={self.me['id']}"
        return [one["body"] for one in self.broker.call("GET", path, headers=self.person.header)]

    def replies(self, message: dict[str, Any]) -> list[str]:
        thread = self.broker.call("GET", f"/messages/thread/{message['thread_id']}", headers=self.person.header)
        return [one["body"].strip() for one in thread if one["from_agent"] == self.me["address"]]


CONFIG = """\
agent_id = "{id}"
agent_name = "coder"
address = "{address}"
broker_url = "{url}"
api_key = "{key}"
permission_mode = "plan"
poll_interval_idle = 60
poll_interval_active = 10
max_retries = 3
session_max_age_days = 7
session_max_turns = 50
runtime = "claude"
project_dir = ""
"""

AGENT_MD = """\
# Agent Identity

- **Name**: coder
- **Role**: tester
- **Address**: {address}
- **Agent ID**: {id}
- **Broker URL**: {url}

## 身份提示词 (System Prompt)

You are coder.

## 邮箱协议 (Mail Protocol)

### 发送

```bash
curl -s -X POST "{url}/messages/send" -H "X-API-Key: <your_api_key>"
```
"""


@pytest.fixture
def left(tmp_path: Path, broker: BrokerDesk, ann: Person) -> Left:
    return Left(tmp_path, broker, ann)


def test_every_command_reads_the_folder_as_it_is(left: Left, request: pytest.FixtureRequest) -> None:
    before = {path: path.read_bytes() for path in left.workdir.rglob("*") if path.is_file()}
    status = left.type("status", "--json")
    assert status.status == 1, status
    assert status.json["dead_letters"] == 2
    # What the other client had settled and left listed waits for nobody; a plain broker only tells how many are unread.
    assert status.json["mailbox"]["waiting"] == (1 if request.node.callspec.params["broker"] == OURS else 3)
    assert status.json["watcher"]["running"] is False
    sessions = left.type("sessions", "list", "--json").json["sessions"]
    assert [(one["thread"], one["session_id"], one["turns"]) for one in sessions] == [
        (left.read["thread_id"], "5e55", 3)
    ]
    letters = left.type("dead-letter", "list", "--json").json["dead_letters"]
    assert [(one["message_id"], one["last_error"], one["stuck_at"]) for one in letters] == [
        ("0ld-dead", "", THEN),
        (left.dead["id"], "exit 1", THEN),
    ]
    logs = left.type("logs")
    assert [word in logs.out for word in ("inflight recovery", "poll inbox", "return_code=1")] == [True] * 3
    assert "\x1b" not in logs.out
    assert left.type("config", "show").status == 0
    assert left.type("memory", "ls").status == 0
    verify = left.type("verify", "--json")
    assert [one["name"] for one in verify.json["checks"] if one["result"] == "failed"] in ([], ["runtime"])
    assert before == {path: path.read_bytes() for path in left.workdir.rglob("*") if path.is_file()}


@LONG
def test_the_first_watcher_runs_what_is_to_be_done_and_nothing_else(left: Left) -> None:
    left.agent('cat >> prompts; echo "answer to $AGENT_MAILER_MESSAGE_ID, attempt $AGENT_MAILER_ATTEMPT"')
    assert sorted(left.unread()) == ["dead", "processed", "tried"]
    done = left.type("watch", "--once")
    assert done.status == 0, done
    assert left.unread() == []
    answers = {name: left.replies(getattr(left, name)) for name in ("processed", "read", "dead", "inflight", "tried")}
    assert answers == {
        "processed": [],
        "read": [],
        "dead": [],
        "inflight": [f"answer to {left.inflight['id']}, attempt 1"],
        "tried": [f"answer to {left.tried['id']}, attempt 2"],
    }
    prompt = (left.workdir / "prompts").read_text()
    assert "An earlier turn for this same mail was interrupted. This is start 2." in prompt
    assert "Already sent from it, do not send again: what the thread shows from you" in prompt
    assert "taken_over" in done.out
    assert left.type("watch", "--once").status == 0
    assert left.replies(left.inflight) == answers["inflight"]
    state = left.workdir / ".agent-mailer"
    assert (state / "processed.txt").stat().st_mode & 0o077 == 0
    assert "# Global Memory for coder" in (state / "memory" / "global.md").read_text()
    assert left.type("sessions", "list", "--json").json["sessions"][0]["session_id"] == "5e55"


@LONG
def test_a_dead_letter_is_tried_again_when_asked_for(left: Left) -> None:
    left.agent("cat > prompt; echo revived")
    # Its message is marked read by the first watcher, and found again all the same.
    assert left.type("watch", "--once").status == 0
    assert left.replies(left.dead) == []
    revived = left.type("dead-letter", "retry", left.dead["id"][:12])
    assert (revived.status, "pending again" in revived.out) == (0, True), revived
    assert left.type("watch", "--once").status == 0
    assert left.replies(left.dead) == ["revived"]
    assert [one["message_id"] for one in left.type("dead-letter", "list", "--json").json["dead_letters"]] == [
        "0ld-dead"
    ]


@LONG
def test_an_agent_id_that_agent_md_contradicts_stops_it(left: Left) -> None:
    path = left.workdir / "AGENT.md"
    path.write_text(path.read_text().replace("**Agent ID**: ", "**Agent ID**: other-"))
    left.agent("cat > /dev/null; echo x")
    refused = left.type("watch", "--once")
    assert (refused.status, "other-" in refused.err) == (78, True), refused
    assert left.type("watch", "--once", "--ignore-agent-md-mismatch").status == 0


# An agent that does as its AGENT.md says.

CURL = """
import json, subprocess, sys, tomllib, urllib.error, urllib.request
from pathlib import Path

url, key, body = sys.argv[1:]
words = ["agent-mailer", "mail", "read", "--json"]
mail = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)["message"]
config = tomllib.loads(Path(".agent-mailer/config.toml").read_text())
form = {"agent_id": config["agent_id"], "from_agent": config["address"], "to_agent": mail["from"],
        "action": "reply", "parent_id": mail["id"], "body": body}
request = urllib.request.Request(url + "/messages/send", json.dumps(form).encode(),
    {"X-API-Key": key or "none", "Content-Type": "application/json"})
try:
    print(urllib.request.urlopen(request).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def _curl(left: Left) -> str:
    (left.workdir / "curl.py").write_text(CURL)
    return f"{sys.executable} curl.py {left.broker.url}"


@pytest.mark.parametrize("key_from", ["its environment", "config.toml"])
@LONG
def test_an_agent_that_uses_curl_first_still_answers_once(left: Left, key_from: str) -> None:
    curl = _curl(left)
    if key_from == "its environment":
        left.agent(
            "cat >/dev/null; echo ${AMP_API_KEY}${AGENT_MAILER_API_KEY} > seen; "
            f'{curl} "$AMP_API_KEY" by-curl > status; agent-mailer mail reply --body by-tool >said; echo I have replied'
        )
    else:
        key = 'sed -n "s/^api_key = .\\\\(.*\\\\)\\"$/\\\\1/p" .agent-mailer/config.toml'
        left.agent(f'cat >/dev/null; {curl} "$({key})" by-curl > status; echo I have replied')
    task = left.send("task")
    assert left.type("watch", "--once").status == 0
    # One answer in each thread in which there was work; none of what the agent says about it besides.
    said = "by-tool" if key_from == "its environment" else "by-curl"
    for message in (task, left.tried, left.inflight):
        assert left.replies(message) == [said]
    status = (left.workdir / "status").read_text().split()[-1]
    assert status == ("401" if key_from == "its environment" else "200")
    if key_from == "its environment":
        assert (left.workdir / "seen").read_text() == "\n"
