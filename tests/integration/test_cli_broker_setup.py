"""`init`, `verify`, `doctor` and `status` of an agent whose mail is at a broker."""

from __future__ import annotations

import itertools
import json
import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.broker_desk import DOMAIN, BrokerDesk, Person, running_broker
from tests.integration.test_cli_setup import on_terminal
from tests.sizes import LONG
from tests.terminal import terminal
from tests.typed import COMMAND, Typed, type_in

from agent_mailer.identity import read_identity
from agent_mailer.setup.documents import BEGIN, END

_SERIAL = itertools.count()
RUN = ("--runtime", "command", "--command", "cat -", "--permission-mode", "plan")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerDesk]:
    with running_broker(tmp_path_factory.mktemp("broker")) as desk:
        yield desk


@pytest.fixture(scope="module")
def ann(broker: BrokerDesk) -> Person:
    return broker.person("ann")


@pytest.fixture
def ben(broker: BrokerDesk, ann: Person) -> Person:
    """A user that has no agents yet."""
    del ann
    return broker.person(f"ben-{next(_SERIAL)}")


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "coder"
    folder.mkdir()
    return folder


def init(workdir: Path, broker: BrokerDesk, key: str, *words: str | Path) -> Typed:
    done = type_in(workdir, "init", "--broker-url", broker.url, "--api-key", "-", *RUN, *words, stdin=f"{key}\n")
    assert key not in done.out + done.err
    return done


def config_of(workdir: Path) -> dict[str, object]:
    return tomllib.loads((workdir / ".agent-mailer" / "config.toml").read_text())


def agents_of(broker: BrokerDesk, person: Person) -> list[str]:
    return [agent["address"] for agent in broker.call("GET", "/agents", headers=person.header)]


def test_a_key_is_enough_to_register(broker: BrokerDesk, ben: Person, workdir: Path) -> None:
    done = init(workdir, broker, ben.key)
    assert done.status == 0, done
    address = f"coder@{ben.name}.{DOMAIN}"
    assert f"registered {address}" in done.out
    assert agents_of(broker, ben) == [address]
    config = config_of(workdir)
    assert (config["address"], config["broker_url"], config["api_key"]) == (address, broker.url, ben.key)
    assert "mailbox" not in config
    assert stat.S_IMODE((workdir / ".agent-mailer/config.toml").stat().st_mode) == 0o600
    identity = (workdir / "AGENT.md").read_text()
    assert read_identity(workdir)["agent_id"] == config["agent_id"]
    assert "curl" in identity.partition(BEGIN)[2].partition(END)[0]
    assert "curl -s" not in identity
    assert ben.key not in identity
    assert type_in(workdir, "verify").status == 0
    before = {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
    again = init(workdir, broker, ben.key)
    assert (again.status, "found" in again.out, "unchanged" in again.out) == (0, True, True), again
    assert before == {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
    assert agents_of(broker, ben) == [address]


def test_a_new_agent_is_what_the_flags_say(broker: BrokerDesk, ben: Person, workdir: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.md"
    prompt.write_text("Review.\n\n## Our protocol of reviews\n\nBe kind.\n")
    words = ("--agent-name", "Big Reviewer", "--address", f"rev@{ben.name}.{DOMAIN}", "--role", "reviewer")
    done = init(workdir, broker, ben.key, *words, "--description", "d", "--system-prompt-file", prompt)
    assert done.status == 0, done
    [agent] = broker.call("GET", "/agents", headers=ben.header)
    assert (agent["name"], agent["role"], agent["description"]) == ("Big Reviewer", "reviewer", "d")
    assert agent["system_prompt"] == prompt.read_text()
    assert prompt.read_text().strip() in (workdir / "AGENT.md").read_text()


def test_what_was_registered_before_a_crash_is_found_again(broker: BrokerDesk, ben: Person, workdir: Path) -> None:
    made = broker.agent(ben, "coder")
    (workdir / ".agent-mailer").mkdir(mode=0o700)
    done = init(workdir, broker, ben.key, "--address", "coder")
    assert (done.status, "found" in done.out) == (0, True), done
    assert config_of(workdir)["agent_id"] == made["id"]
    assert agents_of(broker, ben) == [made["address"]]


def test_an_agent_that_is_registered_already_joins_by_its_id(broker: BrokerDesk, ben: Person, workdir: Path) -> None:
    made = broker.own_agent(ben, "planner")
    done = init(workdir, broker, made["api_key_plaintext"], "--agent-id", made["id"])
    assert done.status == 0, done
    assert config_of(workdir)["address"] == made["address"]
    assert made["address"] in (workdir / "AGENT.md").read_text()
    assert type_in(workdir, "verify").status == 0


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (("--agent-id", "nobody"), 78, "no agent 'nobody'"),
        (("--address", "coder@elsewhere.example"), 1, "Address must end with @ben-"),
        (("--api-key", "amk_wrong"), 77, "Invalid API key"),
        (("--broker-url", "http://127.0.0.1:1"), 69, "127.0.0.1:1"),
        (("--broker-url", "nonsense"), 78, "no http or https URL"),
        (("--api-key", "two words"), 2, "API key"),
        (("--maildir-root", "mail"), 2, "not both"),
        (("--adapter-file", "vim"), 2, "openclaw"),
        (("--system-prompt-file", "nowhere.md"), 2, "nowhere.md"),
    ],
)
def test_what_cannot_be_leaves_nothing(
    broker: BrokerDesk, ben: Person, workdir: Path, words: tuple[str, ...], status: int, named: str
) -> None:
    done = init(workdir, broker, ben.key, *words)
    assert (done.status, named in done.err) == (status, True), done
    assert "fix:" in done.err or status == 2
    assert list(workdir.iterdir()) == []
    assert agents_of(broker, ben) == []


def test_without_a_terminal_every_missing_key_is_named(broker: BrokerDesk, workdir: Path) -> None:
    done = type_in(workdir, "init", "--broker-url", broker.url)
    assert done.status == 78
    for named in ("api_key (--api-key)", "runtime (--runtime)", "permission_mode (--permission-mode)"):
        assert named in done.err
    assert "agent_id" not in done.err
    watch = type_in(workdir, "watch", "--no-interactive", "--broker-url", broker.url)
    assert watch.status == 78
    for named in ("api_key (--api-key)", "agent_id (--agent-id)", "address (--address)"):
        assert named in watch.err
    assert list(workdir.iterdir()) == []


def test_a_key_of_one_agent_registers_no_other(broker: BrokerDesk, ben: Person, workdir: Path) -> None:
    made = broker.own_agent(ben, "planner")
    done = init(workdir, broker, made["api_key_plaintext"])
    assert (done.status, made["address"] in done.err, "--address" in done.err) == (78, True, True), done


# By a login.


def log_in(home: Path, broker: BrokerDesk, person: Person, token: str = "", url: str = "") -> None:
    folder = home / ".agent-mailer"
    folder.mkdir(mode=0o700, exist_ok=True)
    entry = {"username": person.name, "token": token or person.token}
    url = url or broker.url
    file = {"credentials": {url: entry}, "default_broker_url": url}
    (folder / "credentials.json").write_text(json.dumps(file))


def test_a_login_registers_with_a_key_of_the_agents_own(
    broker: BrokerDesk, ben: Person, workdir: Path, home: Path
) -> None:
    log_in(home, broker, ben)
    done = type_in(workdir, "init", "--from-amp-login", *RUN)
    assert done.status == 0, done
    config = config_of(workdir)
    key = str(config["api_key"])
    assert key.startswith("amk_")
    assert key not in done.out + done.err
    assert ben.token not in done.out + done.err
    assert config["address"] == f"coder@{ben.name}.{DOMAIN}"
    other = broker.agent(ben, "other")
    inbox = f"/messages/inbox/{other['address']}?agent_id={other['id']}"
    again = type_in(workdir, "init", "--from-amp-login", *RUN)
    assert (again.status, "unchanged" in again.out) == (0, True), again
    # A crash after the registration: the key is lost, the agent gets another; the first one goes on working.
    (workdir / ".agent-mailer" / "config.toml").unlink()
    assert type_in(workdir, "init", "--from-amp-login", *RUN).status == 0
    fresh = str(config_of(workdir)["api_key"])
    assert fresh != key
    for one in (key, fresh):
        assert broker.call("GET", f"/agents/{config['agent_id']}", headers={"X-API-Key": one})
        broker.call("GET", inbox, 403, headers={"X-API-Key": one})


def test_a_key_that_the_broker_takes_no_more_is_replaced_by_one_of_the_agents_own(
    broker: BrokerDesk, ben: Person, workdir: Path, home: Path
) -> None:
    log_in(home, broker, ben)
    assert type_in(workdir, "init", "--from-amp-login", *RUN).status == 0
    set_key(workdir, "api_key", "amk_revoked")
    done = type_in(workdir, "init", "--from-amp-login", *RUN)
    assert done.status == 0, done
    config = config_of(workdir)
    assert config["api_key"] != "amk_revoked"
    broker.call("GET", f"/agents/{config['agent_id']}", headers={"X-API-Key": config["api_key"]})


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "does not exist"), ("[]", "no logins"), ('{"credentials": {}}', "none"), ("{", "no logins")],
)
def test_no_login_says_how_to_log_in(workdir: Path, home: Path, content: str | None, named: str) -> None:
    if content is not None:
        (home / ".agent-mailer").mkdir(mode=0o700)
        (home / ".agent-mailer" / "credentials.json").write_text(content)
    done = type_in(workdir, "init", "--from-amp-login", *RUN)
    assert (done.status, named in done.err, "amp login" in done.err) == (78, True, True), done
    assert list(workdir.iterdir()) == []


def test_a_login_that_has_ended_is_refused(broker: BrokerDesk, ben: Person, workdir: Path, home: Path) -> None:
    log_in(home, broker, ben, "stale")
    done = type_in(workdir, "init", "--from-amp-login", *RUN)
    assert (done.status, "amp login" in done.err) == (77, True), done
    assert list(workdir.iterdir()) == []


# Documents.


@pytest.mark.parametrize(
    ("runtime", "words", "file", "identity"),
    [
        ("claude", (), "CLAUDE.md", "AGENT.md"),
        ("codex", (), "AGENTS.md", "AGENT.md"),
        ("infiniti", (), "INFINITI.md", "SOUL.md"),
        ("command", ("--adapter-file", "cursor"), ".cursorrules", "AGENT.md"),
        ("claude", ("--adapter-file", "openclaw"), "CLAW.md", "AGENT.md"),
        ("codex", ("--adapter-file", "dreamfactory"), "DREAMER.md", "SOUL.md"),
    ],
)
def test_each_program_gets_its_file(
    broker: BrokerDesk, ann: Person, workdir: Path, runtime: str, words: tuple[str, ...], file: str, identity: str
) -> None:
    os.chmod(workdir, 0o755)
    (workdir / file).write_bytes(b"# Mine \xff\r\nrules")
    (workdir / file).chmod(0o640)
    done = init(workdir, broker, ann.key, "--runtime", runtime, *words)
    assert done.status == 0, done
    data = (workdir / file).read_bytes()
    assert data.startswith(b"# Mine \xff\r\nrules\r\n\r\n<!-- agent-mailer: begin -->\r\n")
    assert stat.S_IMODE((workdir / file).stat().st_mode) == 0o640
    assert identity.encode() in data
    assert (b"@AGENT.md\r\n" in data) is (file == "CLAUDE.md")
    assert read_identity(workdir)["address"] == f"coder@ann.{DOMAIN}"
    assert (workdir / identity).exists()
    assert ann.key.encode() not in data + (workdir / identity).read_bytes()
    stale = data.replace(b"You are the agent", b"An older text")
    (workdir / file).write_bytes(stale)
    assert init(workdir, broker, ann.key, "--runtime", runtime, *words).status == 0
    assert (workdir / file).read_bytes() == data


def test_a_file_that_leads_there_already_and_a_link_are_left(broker: BrokerDesk, ann: Person, workdir: Path) -> None:
    (workdir / "CLAUDE.md").write_text("# mine\n@import AGENT.md\n")
    assert init(workdir, broker, ann.key, "--runtime", "claude").status == 0
    assert (workdir / "CLAUDE.md").read_text() == "# mine\n@import AGENT.md\n"
    (workdir / "AGENTS.md").symlink_to("AGENT.md")
    before = (workdir / "AGENT.md").read_bytes()
    assert init(workdir, broker, ann.key, "--runtime", "codex").status == 0
    assert (workdir / "AGENT.md").read_bytes() == before
    assert (workdir / "AGENTS.md").is_symlink()


def test_an_identity_file_of_a_persons_own_keeps_its_text(broker: BrokerDesk, ann: Person, workdir: Path) -> None:
    (workdir / "AGENT.md").write_text("# Rules\n\nTabs, not spaces.\n")
    assert init(workdir, broker, ann.key).status == 0
    text = (workdir / "AGENT.md").read_text()
    assert text.startswith("# Rules\n\nTabs, not spaces.\n\n<!-- agent-mailer: begin -->\n# Agent Identity\n")
    assert read_identity(workdir)["address"] == f"coder@ann.{DOMAIN}"


def test_the_identity_file_of_another_agent_stops_it(broker: BrokerDesk, ann: Person, workdir: Path) -> None:
    text = "- **Agent ID**: somebody-else\n"
    (workdir / "AGENT.md").write_text(text)
    made = broker.agent(ann, "twin")
    done = init(workdir, broker, ann.key, "--agent-id", made["id"])
    assert (done.status, "somebody-else" in done.err) == (78, True), done
    assert (workdir / "AGENT.md").read_text() == text
    assert not (workdir / ".agent-mailer" / "config.toml").exists()


# Looking at it.


@pytest.fixture
def agent(broker: BrokerDesk, ben: Person, workdir: Path) -> Path:
    assert init(workdir, broker, ben.key).status == 0
    return workdir


def set_key(workdir: Path, key: str, value: str) -> None:
    assert type_in(workdir, "config", "set", key, value).status == 0


def check(done: Typed, name: str) -> dict[str, str]:
    found: dict[str, str] = next(row for row in done.json["checks"] if row["name"] == name)
    return found


def test_verify_names_key_agent_address_and_what_the_broker_can(broker: BrokerDesk, ben: Person, agent: Path) -> None:
    done = type_in(agent, "verify", "--json")
    assert done.status == 0, done
    assert "inbox-cursor" in check(done, "broker")["text"]
    assert f"coder@{ben.name}.{DOMAIN}" in check(done, "agent")["text"]
    assert check(done, "broker_clock")["result"] == "ok"
    assert ben.key not in done.out
    [row] = broker.call("GET", "/agents", headers=ben.header)
    assert row["last_seen"] is None


@pytest.mark.parametrize(
    ("key", "value", "status", "name", "named"),
    [
        ("api_key", "amk_wrong", 77, "broker", "agent-mailer config set api_key"),
        ("agent_id", "nobody", 77, "broker", "agent_id"),
        ("broker_url", "http://127.0.0.1:1", 69, "broker", "broker_url"),
        ("broker_url", "ftp://x", 78, "broker", "broker_url"),
        ("address", "other@ben.amp.localhost", 78, "agent", "agent-mailer config set address coder@"),
    ],
)
def test_verify_says_what_is_wrong_and_what_mends_it(
    agent: Path, key: str, value: str, status: int, name: str, named: str
) -> None:
    (agent / "AGENT.md").unlink()
    set_key(agent, key, value)
    done = type_in(agent, "verify", "--json")
    assert done.status == status, done
    assert (check(done, name)["result"], named in check(done, name)["fix"]) == ("failed", True), done
    assert type_in(agent, "doctor").status == 1


def test_an_agent_md_of_another_agent_is_refused_unless_told(agent: Path) -> None:
    text = (agent / "AGENT.md").read_text()
    (agent / "AGENT.md").write_text(text.replace("**Agent ID**: ", "**Agent ID**: other-"))
    assert type_in(agent, "verify").status == 78
    assert type_in(agent, "watch", "--once").status == 78
    assert type_in(agent, "watch", "--once", "--ignore-agent-md-mismatch").status == 0


@LONG
def test_status_counts_what_waits_and_shows_no_key(broker: BrokerDesk, ben: Person, agent: Path) -> None:
    me = broker.call("GET", "/agents", headers=ben.header)[0]
    for number in range(3):
        broker.send(ben, me, me["address"], body=str(number))
    done = type_in(agent, "status", "--json")
    mailbox = done.json["mailbox"]
    assert (mailbox["waiting"], mailbox["root"], mailbox["problem"]) == (3, broker.url, None), done
    ages = [queued["seconds"] for queued in mailbox["queue"]]
    assert (len(ages), ages) == (3, sorted(ages, reverse=True))
    with terminal([COMMAND, "status", "--watch"], agent) as window:
        window.until("waiting  3, the oldest for ")
    everywhere = type_in(agent, "status", "--all", "--json").json["workdirs"]
    assert [(one["workdir"], one["mailbox"]["waiting"]) for one in everywhere] == [(str(agent), None)]
    assert ben.key not in done.out
    set_key(agent, "broker_url", "http://127.0.0.1:1")
    away = type_in(agent, "status")
    assert (away.status, "cannot be read" in away.out) == (1, True), away


# The section that tells an agent to use curl.

PROTOCOL = """# Agent Identity\r
\r
- **Name**: coder\r
\r
## 身份提示词 (System Prompt)\r
\r
Work well.\r
\r
## 邮箱协议 (Mail Protocol)\r
\r
### Auth\r
```bash\r
# not a heading\r
curl -H "X-API-Key: <your_api_key>" http://x\r
```\r
\r
## Mine\r
\r
Stays.  \r
\r
## Auto-watch (Claude Code only)\r
\r
poll\r
"""


@pytest.mark.parametrize("file", ["AGENT.md", "SOUL.md"])
def test_the_curl_section_is_replaced_only_when_told(broker: BrokerDesk, ben: Person, workdir: Path, file: str) -> None:
    (workdir / file).write_bytes(PROTOCOL.encode())
    runtime = "infiniti" if file == "SOUL.md" else "claude"
    left = init(workdir, broker, ben.key, "--runtime", runtime)
    assert (left.status, "--replace-protocol-section" in left.out) == (0, True), left
    assert (workdir / file).read_bytes().startswith(PROTOCOL.encode())
    kept = type_in(workdir, "init", "--keep-protocol-section")
    assert (kept.status, "protocol-section" in kept.out) == (0, False), kept
    before = (workdir / file).read_bytes()
    done = type_in(workdir, "init", "--replace-protocol-section")
    assert done.status == 0, done
    assert "-## 邮箱协议 (Mail Protocol)\n" in done.out.replace("\r", "")
    assert (workdir / f"{file}.before-agent-mailer").read_bytes() == before
    text = (workdir / file).read_bytes().decode()
    assert "curl -H" not in text
    assert "Auto-watch" not in text
    assert text.startswith(PROTOCOL.partition("## 邮箱协议")[0])
    assert "## Mine\r\n\r\nStays.  \r\n" in text
    assert text.count(BEGIN) == 1
    assert type_in(workdir, "init", "--replace-protocol-section").out.startswith("unchanged")
    assert type_in(workdir, "verify").status in (0, 69)  # the program may be missing here, the rest is right


# On a terminal.


def test_init_asks_for_a_broker_and_shows_no_key(broker: BrokerDesk, ben: Person, workdir: Path, home: Path) -> None:
    # A login at another broker is none at this one.
    log_in(home, broker, ben, url="http://127.0.0.1:1")
    (workdir / "AGENT.md").write_text("## Mail protocol\n\ncurl\n")
    answers = ["broker", "localhost", broker.url, "two words", ben.key, "planner", "command", "cat -", "plan", "y"]
    status, screen = on_terminal(workdir, ["init"], answers)
    assert status == 0, screen
    assert ben.key not in screen
    assert "logged in there" not in screen
    assert "a URL begins with" in screen
    assert "is no key" in screen
    assert "+## Mail" in screen
    assert config_of(workdir)["address"] == f"planner@{ben.name}.{DOMAIN}"
    assert "curl\n" not in (workdir / "AGENT.md").read_text()
    assert agents_of(broker, ben) == [f"planner@{ben.name}.{DOMAIN}"]


def test_ctrl_c_after_the_key_registers_nothing(broker: BrokerDesk, ben: Person, workdir: Path) -> None:
    status, _ = on_terminal(workdir, ["init"], ["broker", broker.url, ben.key, "planner", "\x03"])
    assert status == 130
    assert agents_of(broker, ben) == []
    assert list(workdir.iterdir()) == []


def test_watch_asks_a_person_who_has_logged_in_for_little(
    broker: BrokerDesk, ben: Person, workdir: Path, home: Path
) -> None:
    log_in(home, broker, ben)
    words = ["watch", "--once", "--runtime", "command", "--command", "cat"]
    status, screen = on_terminal(workdir, words, ["broker", "", "", "plan"])
    assert status == 0, screen
    assert "logged in there as" in screen
    assert config_of(workdir)["address"] == f"coder@{ben.name}.{DOMAIN}"
    assert " watches " in screen
