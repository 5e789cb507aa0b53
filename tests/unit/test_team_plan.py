"""What a team's name and file can be."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import yaml

from agent_mailer.config import RuntimeKind
from agent_mailer.errors import ConfigFault, UsageFault
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.teams.plan import Member, Team, read_team, team_name, template, templates, written

LAUNCHERS = """\
# written by another launcher
team: shop-codex
broker_url: http://localhost:9800
runtime: agent-mailer watch
agent_runtime: codex
permission_mode: bypassPermissions
project_dir: /home/ann/shop
agents:
  - name: shop-codex_planner
    role: planner
    description: "Plans"
    system_prompt: |
      You plan.

      Then you hand over.
  - name: shop-codex_coder
    role: coder
    description: "Codes"
    system_prompt: |
      You code.
"""

BOMB = "a: &a [x]\n" + "".join(
    f"{one}: &{one} [*{before}, *{before}]\n" for before, one in pairwise("abcdefghijklmnopqrst")
)


def read(folder: Path, text: str) -> Team:
    (folder / "team.yaml").write_text(text)
    return read_team(folder)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("shop", "shop"),
        ("My Shop", "my-shop"),
        ("a" * 40, "a" * 31),
        ("Ünïcode shop", "n-code-shop"),
        ("-x-", "x"),
        ("a.b/c", "a-b-c"),
        ("a_b", "a_b"),
    ],
)
def test_a_name_is_made_as_the_launcher_makes_it(typed: str, name: str) -> None:
    assert team_name(typed) == name


@pytest.mark.parametrize("typed", ["", "   ", "日本", "--", "…"])
def test_what_has_nothing_of_a_name_is_refused(typed: str) -> None:
    with pytest.raises(UsageFault, match="cannot name a team"):
        team_name(typed)


def test_a_file_of_the_existing_launcher_is_read(tmp_path: Path) -> None:
    team = read(tmp_path, LAUNCHERS)
    assert (team.name, team.runtime, team.mode, team.local) == (
        "shop-codex",
        RuntimeKind.CODEX,
        PermissionMode.BYPASS_PERMISSIONS,
        False,
    )
    assert team.project == Path("/home/ann/shop")
    assert [member.name for member in team.members] == ["shop-codex_planner", "shop-codex_coder"]
    assert team.members[0].system_prompt == "You plan.\n\nThen you hand over.\n"
    assert team.lead.role == "planner"
    assert team.member("coder") is team.member("shop-codex_coder") is team.members[1]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    members = (
        Member(
            "t_a",
            "a",
            "does a",
            "You do a.\nWell.\n",
            RuntimeKind.CODEX,
            {"model": "m", "limits": {"turns_per_day": 3}},
        ),
        Member("t_b", "b", values={"command": ["sh", "-c", "x: y # z"]}),
    )
    team = Team("t", RuntimeKind.COMMAND, PermissionMode.PLAN, members, project=Path("/a b/ü"))
    (tmp_path / "team.yaml").write_bytes(written(team))
    assert read_team(tmp_path) == team


def test_nothing_in_the_file_is_by_reference(tmp_path: Path) -> None:
    command = ["sh", "-c", "true"]
    members = tuple(Member(f"t_{role}", role, values={"command": command}) for role in ("a", "b"))
    text = written(Team("t", RuntimeKind.COMMAND, PermissionMode.PLAN, members)).decode()
    assert "&" not in text
    assert "*" not in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("team: t\nagents:\n\t- role: a\n", r"line 3.*never by tabs"),
        ("team: t\nagents: [\n", r"line 3"),
        ("- a\n", "holds no keys"),
        ("", "holds no keys"),
        ("team: t\nagents: []\n", "1 to 100 agents"),
        ("team: t\n", "agents"),
        ("agents: [{role: a}]\n", "team"),
        ("team: T x\nagents: [{role: a}]\n", "t-x can"),
        ("team: t\nagents: [{role: a}, {role: a}]\n", "two agents have the name t_a"),
        ("team: t\nagents: [{role: a, name: x}, {role: a, name: y}]\n", "two agents have the role a"),
        ("team: t\nagents: [{role: a, name: ../up}]\n", "cannot name an agent"),
        ("team: t\nagents: [{role: a, modle: x}]\n", "no key 'modle'"),
        ("team: t\nagents: [{role: a, max_retries: many}]\n", "max_retries"),
        ("team: t\nagents: [{role: a, limits: {turns_per_day: many}}]\n", "limits.turns_per_day"),
        ("team: t\nagents: [{role: a, address: b}]\n", "address is decided by the team"),
        ("team: t\nagents: [{role: a, runtime: cobol}]\n", "runtime"),
        ("team: t\nagent_runtime: cobol\nagents: [{role: a}]\n", "agent_runtime"),
        ("team: t\ncolour: red\nagents: [{role: a}]\n", "no key 'colour'"),
        ("team: t\nagents: [1]\n", "agents"),
        ("team: !!python/object/apply:os.system [true]\nagents: []\n", "line 1"),
        (BOMB, "no key"),
        ("x" * (1024 * 1024 + 1), "larger than"),
        ("team: \x00\n", "no YAML"),
    ],
    ids=lambda text: text[:40] if isinstance(text, str) else None,
)
def test_what_is_no_team_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigFault, match=told) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "team.yaml") in caught.value.message


def test_a_file_that_is_no_text_or_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="is no team"):
        read_team(tmp_path)
    (tmp_path / "team.yaml").write_bytes(b"team: \xff\xfe\n")
    with pytest.raises(ConfigFault, match="no YAML"):
        read_team(tmp_path)


def test_every_template_makes_a_team_that_can_be_read(tmp_path: Path) -> None:
    assert {"four-roles", "solo-with-reviewer"} <= set(templates())
    for name in templates():
        members = tuple(msgspec.structs.replace(one, name=f"t_{one.role}") for one in template(name))
        (tmp_path / "team.yaml").write_bytes(written(Team("t", RuntimeKind.CLAUDE, PermissionMode.PLAN, members)))
        assert read_team(tmp_path).members == members
        assert all("Done is:" in member.system_prompt for member in members)
        assert yaml.safe_load((tmp_path / "team.yaml").read_text())["team"] == "t"
    with pytest.raises(UsageFault, match="--template"):
        template("no-such")
