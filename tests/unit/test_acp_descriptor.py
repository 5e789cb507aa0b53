"""Descriptions of agents: those that are shipped can be used, a bad one says what is wrong with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from agent_mailer.errors import ConfigFault
from agent_mailer.outcomes import Exit, Outcome
from agent_mailer.runtimes.acp.adapter import AgentOptions, AgentRuntime
from agent_mailer.runtimes.acp.descriptor import read
from agent_mailer.runtimes.acp.orders import Orders
from agent_mailer.runtimes.acp.shelf import Shelf
from agent_mailer.runtimes.port import (
    Asking,
    Counted,
    Evidence,
    Observation,
    PermissionMode,
    Probe,
    Reach,
    Result,
    RuntimeMissing,
)
from agent_mailer.testing.runtime_suite import RuntimeSuite

SHIPPED = ("gemini", "gemini-headless", "kimi", "opencode", "qwen", "qwen-acp", "vibe")
LEAST = 'argv = ["sh", "-c", "true"]\n[modes.plan]\n'


def shelf(user: Path, **own: str) -> Shelf:
    return Shelf({f"agents/{name}.toml": text.encode() for name, text in own.items()}, user)


def agent(tmp_path: Path, text: str = LEAST, **env: str) -> AgentRuntime:
    known = shelf(tmp_path, some=text).find("some")
    return AgentRuntime(known, AgentOptions(PermissionMode.PLAN), {"PATH": "/usr/bin:/bin", "HOME": "/home/u", **env})


class TestAgentSuite(RuntimeSuite):
    @pytest.fixture
    def runtime(self, tmp_path: Path) -> AgentRuntime:
        return agent(tmp_path)


def test_a_projects_modules_are_none_of_the_bridges(tmp_path: Path) -> None:
    """PYTHONPATH in [env] is for the agent: what lies there an agent may have written."""
    (tmp_path / "select.py").write_text("raise SystemExit(7)\n")
    (tmp_path / "msgspec.py").write_text("raise SystemExit(7)\n")
    launch = agent(tmp_path, PYTHONPATH=str(tmp_path)).command(RuntimeSuite().request_for(tmp_path))
    assert launch.env["PYTHONPATH"] == str(tmp_path)
    done = subprocess.run(launch.argv, env=launch.env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"ended before it was told anything" in done.stdout


def test_the_bridge_is_told_what_is_kept_and_that_a_person_is_asked(tmp_path: Path) -> None:
    known, kept = shelf(tmp_path, some=LEAST).find("some"), tmp_path / ".agent-mailer"
    options = AgentOptions(PermissionMode.PLAN, reach=Reach(kept=(kept,)))
    runtime = AgentRuntime(known, options, {"PATH": "/usr/bin:/bin", "HOME": "/home/u"})
    request = RuntimeSuite().request_for(tmp_path)
    for asking in (None, Asking(("hook",))):
        launch = runtime.command(msgspec.structs.replace(request, asking=asking))
        orders = msgspec.json.decode(launch.argv[-1], type=Orders)
        assert (orders.kept, orders.asks) == ((str(kept),), asking is not None)


def test_the_shipped_ones_have_every_mode_and_a_check(tmp_path: Path) -> None:
    empty = shelf(tmp_path)
    assert tuple(empty.names()) == SHIPPED
    for name in SHIPPED:
        known = empty.find(name)
        for mode in PermissionMode:
            assert AgentRuntime(known, AgentOptions(mode), {"HOME": "/home/u"}).traits.home is not None
        traits = AgentRuntime(known, AgentOptions(PermissionMode.PLAN), {"HOME": "/home/u"}).traits
        assert traits.counts == ({Counted.TOKENS} if name != "kimi" else frozenset())
        assert known.descriptor.check.known
        plan = known.descriptor.modes.plan
        assert plan is not None
        assert not {"execute", "edit", "delete", "move", "*"} & set(plan.allow_kinds)


def test_the_workdirs_own_comes_first_then_the_users(tmp_path: Path) -> None:
    (tmp_path / "opencode.toml").write_text(LEAST)
    assert shelf(tmp_path).find("opencode").where == str(tmp_path / "opencode.toml")
    own = shelf(tmp_path, opencode=LEAST.replace("true", "false")).find("opencode")
    assert own.descriptor.argv[2] == "false"
    (tmp_path / "kimi.toml").mkdir()
    with pytest.raises(ConfigFault, match="cannot be read"):
        shelf(tmp_path).find("kimi")
    for name in ("no-such", "../opencode", "", "Opencode"):
        with pytest.raises(ConfigFault, match="no agent is described"):
            shelf(tmp_path).find(name)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "argv"),
        ("argv = []", "names no program"),
        ('argv = ["x"]\nunheard_of = 1', "unheard_of"),
        ("argv = [", "TOML|Invalid"),
        ('argv = ["x"]\n[named]\nfield = "a"\nmail = "("', "no regular expression"),
        ('argv = ["x"]\n[named]\nfield = "a"\nname = "abc"', "one group"),
        ('argv = ["x"]\n[[errors]]\noutcome = "failed"', "neither"),
        ('argv = ["x"]\n[[errors]]\ncode = 1\noutcome = "done"', "done"),
        ('argv = ["x"]\nsilent_for = 0', "silent_for"),
        ('argv = ["x"]\nsilent_for = 3000000000', "silent_for"),
        ('argv = ["x"]\nleaves_in = inf', "leaves_in"),
        ('argv = ["x"]\n[check.files]\n"../.bashrc" = "x"', "leads out"),
        ('argv = ["x"]\nhome = ["/etc"]', "leads out"),
        ('argv = ["x"]\nhome = ["."]', "leads out"),
        ("x" * 70_000, "more than"),
    ],
)
def test_a_bad_one_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(ConfigFault, match=why) as caught:
        read(text.encode(), "/srv/x.toml")
    assert "/srv/x.toml" in caught.value.message + caught.value.fix


def test_a_mode_that_is_not_described_is_refused(tmp_path: Path) -> None:
    known = shelf(tmp_path, some=LEAST).find("some")
    with pytest.raises(ConfigFault, match="no permission_mode"):
        AgentRuntime(known, AgentOptions(PermissionMode.BYPASS_PERMISSIONS), {})


def test_a_program_that_is_not_there_says_how_it_is_installed(tmp_path: Path) -> None:
    text = LEAST.replace('"sh"', '"no-such-agent"').replace("[modes", 'install = "npm install --global it"\n[modes')
    with pytest.raises(RuntimeMissing) as caught:
        agent(tmp_path, text).probes(tmp_path)
    assert caught.value.fix == "npm install --global it"


def test_a_node_that_is_too_old_is_told_and_the_agents_own_version(tmp_path: Path) -> None:
    runtime = agent(tmp_path, LEAST.replace("[modes", "node = 22\n[modes"))
    asked = runtime.probes(tmp_path)
    assert [probe.argv[-1] for probe in asked] == ["--version", "--version"]
    assert runtime.read_probe(asked[0], 0, "some v1.2.3 (abc)\n").text == "some 1.2.3"
    assert not runtime.read_probe(asked[0], 1, "SyntaxError: createZstdDecompress").ok
    old = runtime.read_probe(asked[1], 0, "v20.20.2\n")
    assert not old.ok
    assert "Node 22" in old.text
    assert runtime.read_probe(asked[1], 0, "v22.1.0\n").ok
    assert isinstance(asked[0], Probe)


def test_what_keeps_the_agent_to_its_mode_is_not_taken_away(tmp_path: Path) -> None:
    """opencode's permissions stand in the variable in which a user would give it a model."""
    known, given = shelf(tmp_path).find("opencode"), {"OPENCODE_CONFIG_CONTENT": '{"model":"x/y"}'}
    with pytest.raises(ConfigFault, match=r"OPENCODE_CONFIG_CONTENT.*acceptEdits") as caught:
        AgentRuntime(known, AgentOptions(PermissionMode.ACCEPT_EDITS), given)
    assert caught.value.fix == "agent-mailer config edit"
    # Where everything is allowed there is nothing to take away.
    AgentRuntime(known, AgentOptions(PermissionMode.BYPASS_PERMISSIONS), given)


def test_a_project_whose_settings_a_program_would_run_starts_nothing(tmp_path: Path) -> None:
    """In the folder or above it; in its user's home they are his, and where all is allowed nothing is taken away."""
    home, workdir = tmp_path, tmp_path / "a" / "b"
    workdir.mkdir(parents=True)
    given = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    text = LEAST + '[modes.bypassPermissions]\nallow_kinds = ["*"]\n'
    known = shelf(tmp_path, some=f'executes = [".x/plugin"]\n{text}').find("some")
    runtime = AgentRuntime(known, AgentOptions(PermissionMode.PLAN), given)
    request = RuntimeSuite().request_for(workdir)
    (home / ".x" / "plugin").mkdir(parents=True)
    runtime.command(request)
    strange = workdir.parent / ".x" / "plugin"
    strange.parent.symlink_to(home / ".x")
    with pytest.raises(RuntimeMissing, match=str(strange)) as caught:
        runtime.command(request)
    assert "move it away" in caught.value.fix
    AgentRuntime(known, AgentOptions(PermissionMode.BYPASS_PERMISSIONS), given).command(request)
    assert {"opencode.json", ".opencode/plugin"} <= set(shelf(tmp_path).find("opencode").descriptor.executes)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("opencode", "opencode.json"),
        ("qwen", ".env"),
        ("qwen-acp", ".qwen/settings.json"),
        ("kimi", ".mcp.json"),
        ("vibe", ".vibe/hooks.toml"),
    ],
)
def test_what_the_shipped_ones_would_run_of_a_project_is_known(tmp_path: Path, name: str, file: str) -> None:
    """Each was seen: run, or asked in place of the provider."""
    known, workdir = shelf(tmp_path).find(name), tmp_path / "work"
    for folder in (tmp_path / "bin", (workdir / file).parent):
        folder.mkdir(parents=True)
    program = tmp_path / "bin" / known.descriptor.argv[0]
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    given = {"HOME": str(tmp_path / "home"), "PATH": f"{program.parent}:/usr/bin:/bin"}
    runtime = AgentRuntime(known, AgentOptions(PermissionMode.PLAN), given)
    request = RuntimeSuite().request_for(workdir)
    runtime.command(request)
    (workdir / file).touch()
    with pytest.raises(RuntimeMissing, match=str(workdir / file)):
        runtime.command(request)


def test_an_account_is_known_by_its_keys(tmp_path: Path) -> None:
    text = LEAST.replace("[modes", 'keys = ["K"]\n[modes')
    accounts = {agent(tmp_path, text, **env).traits.account for env in ({"K": "a"}, {"K": "b"}, {"K": "a", "X": "y"})}
    assert len(accounts) == 2
    assert not any(account == "a" for account in accounts)


def test_no_key_in_a_providers_error_comes_into_a_log_or_a_mail(tmp_path: Path) -> None:
    text = LEAST.replace("[modes", 'keys = ["K", "SHORT", "NONE", "L"]\n[modes')
    runtime = agent(tmp_path, text, K="sk-0123456789", SHORT="a", L="sk-9876543")
    said = Observation()
    said.add(Result(Outcome.SIGNED_OUT, "a text", "Incorrect API key provided: sk-0123456789, nor is sk-9876543 one."))
    (tmp_path / "err").write_text("fatal: no access with sk-9876543, sk-0123456789 or sk-9876543\n")
    for seen, words in ((said, "provided: [K], nor is [L] one."), (Observation(), "no access with [L], [K] or [L]")):
        judged = runtime.judge(Evidence(seen, Exit(status=1), tmp_path / "out", tmp_path / "err", None))
        assert judged.detail.endswith(words)


def test_a_final_result_is_one_of_ours(tmp_path: Path) -> None:
    (event,) = agent(tmp_path).parse(b'{"type":"result","outcome":"signed_out","detail":"x"}')
    assert getattr(event, "outcome", None) is Outcome.SIGNED_OUT
