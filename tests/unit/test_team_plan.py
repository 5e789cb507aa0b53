"""What a team's name and file can be."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import yaml

from agent_mailer.config import RuntimeKind
from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault, UsageFault
from agent_mailer.runtimes.port import PermissionMode
from agent_mailer.teams.kept import keep, standing
from agent_mailer.teams.place import new_directory
from agent_mailer.teams.plan import Member, Team, names_of, team_name, written
from agent_mailer.teams.reading import read_team, template, templates

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

CLOCK = """\
team: t
agents:
- role: a
  schedule:
  - name: nightly
    cron: 30 2 * * *
    subject: Nightly
    text: Look at the logs.
  - name: weekly
    cron: 0 3 * * 1
    subject: Weekly
    body: mine/weekly.md
"""

BOMB = "a: &a [x]\n" + "".join(
    f"{one}: &{one} [*{before}, *{before}]\n" for before, one in pairwise("abcdefghijklmnopqrst")
)


def read(folder: Path, text: str) -> Team:
    (folder / "team.yaml").write_text(text, errors="surrogateescape")
    return read_team(folder)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("shop", "shop"),
        ("My Shop", "my-shop"),
        ("a" * 40, "a" * 31),
        ("Ünïcode shop", "unicode-shop"),
        ("équipe", "equipe"),
        ("Straße & Søn", "strasse---son"),
        ("-x-", "x"),
        ("a.b/c", "a-b-c"),
        ("a_b", "a_b"),
    ],
)
def test_a_name_is_made_of_what_was_typed(typed: str, name: str) -> None:
    assert team_name(typed) == name


def test_a_team_that_the_launcher_called_otherwise_is_found(tmp_path: Path) -> None:
    assert names_of("Café") == ("cafe", "caf-", "caf")
    assert names_of("shop") == ("shop",)
    environ = {"AMP_TEAMS_DIR": str(tmp_path)}
    assert new_directory("Café", None, environ, tmp_path) == tmp_path / "cafe"
    (tmp_path / "caf-").mkdir()
    (tmp_path / "caf-" / "team.yaml").write_text("team: caf-\nagents: [{role: planner}]\n")
    assert new_directory("Café", None, environ, tmp_path) == tmp_path / "caf-"
    assert read_team(tmp_path / "caf-").lead.name == "caf-_planner"


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


def test_a_schedule_sends_the_text_that_stands_there_or_the_file_that_it_names(tmp_path: Path) -> None:
    [member] = read(tmp_path, CLOCK).members
    schedules = msgspec.convert(member.values["schedule"], list[dict[str, str]])
    assert {one["name"]: one["body"] for one in schedules} == {
        "nightly": "schedules/nightly.md",
        "weekly": "mine/weekly.md",
    }
    assert member.texts == {"nightly": "Look at the logs."}


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
        ("- a\n", "line 1: it holds no keys"),
        ("", "it is empty"),
        ("# nothing\n", "it is empty"),
        ("team: t\nagents: []\n", "line 2: .*1 to 100 agents"),
        ("team: t\n", "agents is a list"),
        ("agents: [{role: a}]\n", "line 1: the key team is missing"),
        ("team: T x\nagents: [{role: a}]\n", "line 1: .*did you mean t-x"),
        ("team: 7\nagents: [{role: a}]\n", "line 1: team is a text: in quotes, '7'"),
        ("team: t\nteam: u\nagents: [{role: a}]\n", "line 1: 'team' stands there twice, the second time in line 2"),
        ("team: t\nagents:\n- role: a\n  model: x\n  model: y\n", "line 4: 'model' .*in line 5"),
        ("team: t\nagents: [{role: a}, {role: a}]\n", "line 2: two agents have the name t_a"),
        ("team: t\nagents:\n- {role: a, name: x}\n- {role: a, name: y}\n", "line 4: two agents have the role a"),
        ("team: t\nagents: [{role: a, name: ../up}]\n", "cannot name an agent"),
        ("team: t\nagents:\n- role: a\n  modle: x\n", "line 4: there is no key 'modle'; did you mean model"),
        ("team: t\nagents:\n- role: a\n  system_promt: x\n", "line 4: .*did you mean system_prompt"),
        ("team: t\nagents:\n- role: a\n  agent_runtime: codex\n", "line 4: .*agent_runtime stands at the top"),
        ("team: t\nagents: [{role: a, max_retries: many}]\n", "line 2: max_retries"),
        ("team: t\nagents:\n- role: a\n  limits:\n    turns_per_day: many\n", "line 5: limits.turns_per_day"),
        (
            "team: t\nagents:\n- role: a\n  limits:\n    turns_per_dy: 3\n",
            "line 5: .*did you mean limits.turns_per_day",
        ),
        ("team: t\nagents:\n- role: a\n  schedule:\n  - name: n\n    corn: 3 3 * * *\n", "line [56]: .*corn"),
        ("team: t\nagents: [{role: a, schedule: nightly}]\n", "line 2: schedule is a list"),
        ("team: t\nagents: [{role: a, address: b}]\n", "line 2: .*address is decided by the team"),
        ("team: t\nagents:\n- role: a\n  runtime: cluade\n", "line 4: runtime is 'cluade', .*did you mean claude"),
        ("team: t\nagent_runtime: cobol\nagents: [{role: a}]\n", "line 2: agent_runtime is 'cobol', .*codex"),
        ("team: t\npermission_mode: accept-edits\nagents: [{role: a}]\n", "line 2: .*did you mean acceptEdits"),
        ("team: t\ncolour: red\nagents: [{role: a}]\n", "line 2: there is no key 'colour'"),
        ("team: t\nagent: [{role: a}]\n", "line 2: there is no key 'agent'; did you mean agents"),
        ("team: t\nbroker_url: embeded\nagents: [{role: a}]\n", "line 2: broker_url is .*did you mean embedded"),
        ("team: t\nbroker_url: localhost:9800\nagents: [{role: a}]\n", "line 2: .*did you mean http://localhost:9800"),
        ("team: t\nbroker_url: http://h:nine\nagents: [{role: a}]\n", "line 2: broker_url is"),
        ("team: t\nproject_dir: src\nagents: [{role: a}]\n", "line 2: project_dir is the whole path of a folder"),
        ("team: t\nproject_dir: ~nobody-is/x\nagents: [{role: a}]\n", "line 2: project_dir is the whole path"),
        ("team: t\nmaildir_root: mail\nagents: [{role: a}]\n", "line 2: maildir_root is the whole path"),
        ("team: t\nmodel: x\nagents: [{role: a}]\n", "line 2: .*model is a key of an agent"),
        ("team: t\nagents:\n- role: a\n- 1\n", "line 4: each of the agents has keys"),
        ("team: !!python/object/apply:os.system [true]\nagents: []\n", "line 1"),
        (BOMB, "no key"),
        ("x" * (1024 * 1024 + 1), "larger than"),
        ("team: t\n# \x00\n", "line 2: the character U[+]0000"),
        ("team: t\n# \udce9\n", "line 2: the byte 0xe9, no UTF-8 text"),
        ("team: " + "[" * 9000, "nested too deeply"),
        ("team: t\nruntime: codex\nagents: [{role: a}]\n", "line 2: .*did you mean agent_runtime: codex"),
        ("team: t\nagents: [{role: a, limits: 5}]\n", "line 2: limits: it is a table"),
    ],
    ids=lambda text: text[:40] if isinstance(text, str) else None,
)
def test_what_is_no_team_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigFault, match=told) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "team.yaml") in caught.value.message


def test_a_project_that_is_not_there_is_told_with_its_line_and_stops_no_command(tmp_path: Path) -> None:
    project = tmp_path / "shop"
    project.mkdir()
    (tmp_path / "team.yaml").write_text(f"team: t\nproject_dir: {project}\nagents: [{{role: a}}]\n")
    keep(tmp_path, Disk())
    assert standing(tmp_path).fault is None
    project.rmdir()
    now = standing(tmp_path)
    assert now.fault is not None
    assert f"{tmp_path / 'team.yaml'}: line 2: project_dir: {project} is not there" in now.fault.message
    assert str(project) in now.fault.fix
    assert now.team.project == project
    # Of a change that was not taken over, what was before counts.
    other = tmp_path / "file"
    other.touch()
    (tmp_path / "team.yaml").write_text(f"team: t\n# moved\nproject_dir: {other}\nagents: [{{role: a}}]\n")
    project.mkdir()
    now = standing(tmp_path)
    assert now.fault is not None
    assert "line 3: project_dir" in now.fault.message
    assert "or, as it was: cp " in now.fault.fix
    assert now.team.project == project


def test_a_file_that_is_no_text_or_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="is no team"):
        read_team(tmp_path)
    (tmp_path / "team.yaml").write_bytes(b"team: \xff\xfe\n")
    with pytest.raises(ConfigFault, match="line 1: the byte 0xff, no UTF-8"):
        read_team(tmp_path)
    (tmp_path / "team.yaml").write_bytes("team: t\n# \x07\n".encode("utf-16"))
    with pytest.raises(ConfigFault, match=r"line 2: the character U\+0007"):
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
