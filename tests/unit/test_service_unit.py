"""The unit of an agent as text, and the folder of units."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault, MailerError, UsageFault
from agent_mailer.service.folder import KEPT, Units
from agent_mailer.service.install import SYSTEM_PATH, interpreter_of, needed_programs, search_path
from agent_mailer.service.manager import UnitState, problems_of, vanished
from agent_mailer.service.unit import (
    DROP_IN,
    Instance,
    check_name,
    drop_in,
    gone_unit,
    name_for,
    oneshot_of,
    read_drop_in,
    shipped_template,
    unit_of,
)

CODER = Instance(
    "coder", Path("/home/u/coder"), Path("/home/u/.local/bin/agent-mailer"), ("/home/u/.local/bin", "/bin")
)
FOLDERS = st.text(st.characters(codec="utf-8", exclude_characters="/:\0"), min_size=1, max_size=20)


@pytest.fixture
def units(tmp_path: Path) -> Units:
    return Units(tmp_path / "systemd" / "user", Disk())


def test_the_drop_in_has_what_is_the_agents_own() -> None:
    assert [line for line in drop_in(CODER).splitlines() if line and not line.startswith("#")] == [
        "[Unit]",
        "OnFailure=agent-mailer-gone@coder.service",
        "[Service]",
        "WorkingDirectory=/home/u/coder",
        "ExecStart=",
        'ExecStart="/home/u/.local/bin/agent-mailer" watch --no-interactive',
        'Environment="PATH=/home/u/.local/bin:/bin"',
        "[X-AgentMailer]",
    ]


def test_what_systemd_would_expand_is_escaped() -> None:
    odd = Instance("x", Path('/100% "mine"/$HOME'), Path("/a %h/$b/c d"), ("/e %h", "/$f", '/"g'))
    text = drop_in(odd)
    assert 'WorkingDirectory=/100%% "mine"/$HOME\n' in text
    assert 'ExecStart="/a %%h/$b/c d" watch' in text
    assert 'Environment="PATH=/e %%h:/$f:/\\"g"' in text
    assert read_drop_in("x", text) == odd


@given(folder=FOLDERS, needs=st.lists(FOLDERS, max_size=2), allow_sudo=st.booleans())
def test_a_drop_in_is_read_as_it_was_written_or_refused(folder: str, needs: list[str], allow_sudo: bool) -> None:
    instance = Instance(
        "x",
        Path("/w") / folder,
        Path("/p") / folder / "agent-mailer",
        (f"/f/{folder}", "/bin"),
        tuple(Path("/n") / need for need in needs),
        tuple(Path("/m") / need for need in needs),
        allow_sudo,
    )
    try:
        text = drop_in(instance)
    except ConfigFault:
        return
    assert read_drop_in("x", text) == instance


@pytest.mark.parametrize("text", ["", "[Service]\nWorkingDirectory=/x\n", "ExecStart=/bin/true\nWorkingDirectory=/\n"])
def test_what_is_not_ours_is_no_instance(text: str) -> None:
    assert read_drop_in("x", text) is None


def test_a_service_is_named_after_its_agent() -> None:
    assert name_for("coder") == "coder"
    assert name_for("coder@acme.example") == "coder"
    assert name_for("Code Reviewer #2") == "Code-Reviewer-2"
    assert unit_of("coder") == "agent-mailer@coder.service"
    for name in ("", "-x", "a b", "a/b", "a@b", "é", "x" * 101):
        with pytest.raises(UsageFault):
            check_name(name)
    with pytest.raises(UsageFault):
        name_for("智能体")


def test_the_trial_has_the_surroundings_of_the_service_and_another_end() -> None:
    text = oneshot_of(
        [shipped_template(), drop_in(CODER)], CODER.program, ("verify", "--json"), Path("/run/x"), Path("/run/y")
    )
    assert text.startswith(shipped_template())
    tail = text[text.rindex("[Service]") :]
    assert "Type=oneshot\n" in tail
    assert tail.endswith('ExecStart=\nExecStart="/home/u/.local/bin/agent-mailer" verify --json\n')
    assert "Environment" not in tail


def test_installing_again_changes_nothing_and_uninstalling_leaves_nothing(units: Units) -> None:
    first, _ = units.write(CODER)
    again, _ = units.write(CODER)
    assert [line.split()[0] for line in first] == ["wrote"] * 3
    assert [line.split()[0] for line in again] == ["unchanged"] * 3
    assert units.all() == [CODER]
    assert units.named("coder") == units.of(CODER.workdir) == CODER
    assert units.named("planner") is None
    units.remove("coder")
    assert not list(units.folder.iterdir())


def test_the_last_uninstalled_takes_the_template_with_it_and_leaves_what_is_yours(units: Units) -> None:
    units.write(CODER)
    units.write(Instance("planner", Path("/home/u/planner"), CODER.program, CODER.path))
    mine = units.drop_in("planner").with_name("override.conf")
    mine.write_text("[Service]\nNice=5\n")
    units.remove("coder")
    assert units.template.exists()
    assert units.remove("planner")[2] == f"left      your own files in {mine.parent}"
    assert not units.template.exists()
    assert mine.exists()


def test_a_unit_that_was_there_is_kept_and_comes_back_when_it_is_undone(units: Units) -> None:
    units.folder.mkdir(parents=True)
    units.template.write_text("[Service]\nExecStart=/bin/true\n")
    lines, undo = units.write(CODER)
    assert lines[0] == f"kept      the unit that was there as {units.folder / KEPT}"
    assert units.template.read_text() == shipped_template()
    undo()
    assert units.template.read_text() == "[Service]\nExecStart=/bin/true\n"
    assert units.all() == []
    assert not units.drop_in("coder").parent.exists()
    assert not units.gone("coder").exists()


def test_what_fails_for_good_is_told_and_the_trial_is_not() -> None:
    assert "\n[Unit]\nOnFailure=agent-mailer-gone@coder.service\n[Service]\n" in drop_in(CODER)
    text = gone_unit(CODER)
    assert 'ExecStart="/home/u/.local/bin/agent-mailer" service gone\n' in text
    assert f"WorkingDirectory={CODER.workdir}\n" in text
    trial = oneshot_of([shipped_template(), drop_in(CODER)], CODER.program, ("verify",), Path("/run/x"), Path("/run/y"))
    assert trial.rindex("\nOnFailure=\n") > trial.rindex("OnFailure=agent-mailer-gone")


def test_the_users_own_drop_ins_have_the_last_word(units: Units) -> None:
    units.write(CODER)
    for folder, name in ((f"{units.template}.d", "override.conf"), (units.drop_in("coder").parent, "90-mine.conf")):
        path = Path(folder) / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"[Service]\n# {name}\n")
    heads = [text.splitlines()[-1] for text in units.texts("coder")]
    assert heads[0] == "WantedBy=default.target"
    assert heads[1:] == ["[X-AgentMailer]", "# 90-mine.conf", "# override.conf"]
    assert units.texts("coder", "[Service]\n# new\n")[1] == "[Service]\n# new\n"
    assert DROP_IN < "override.conf"


def test_of_two_drop_ins_of_one_name_the_agents_own_counts(units: Units) -> None:
    """As for systemd: what is tried for a service has the surroundings that the service has."""
    units.write(CODER)
    for folder in (f"{units.template}.d", units.drop_in("coder").parent, units.drop_in("planner").parent):
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / "override.conf").write_text(f"[Service]\n# {Path(folder).name}\n")
    assert units.texts("coder")[2:] == ["[Service]\n# agent-mailer@coder.service.d\n"]
    assert units.texts("writer")[2:] == ["[Service]\n# agent-mailer@.service.d\n"]


def test_what_a_script_runs_on_is_found_where_it_is_looked_for(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    node, script = folder / "node", tmp_path / "agent"
    node.write_text("")
    node.chmod(0o755)
    for first, found in (
        ("#!/usr/bin/env node", node),
        ("#! /usr/bin/env -S node --no-warnings", node),
        ("#!/usr/bin/env python9", None),
        ("#!/bin/sh", None),
        ("\x7fELF", None),
    ):
        script.write_text(f"{first}\n")
        assert interpreter_of(script, str(folder)) == found
    assert interpreter_of(tmp_path / "nothing", str(folder)) is None
    assert needed_programs(script, str(folder), node=True) == (script, node)
    assert needed_programs(script, str(folder), node=False) == (script,)
    assert vanished([node, script]) == [script]


def test_the_path_has_each_folder_once_and_the_systems_last() -> None:
    found = search_path([Path("/home/u/bin/a"), Path("/usr/bin/b"), Path("/home/u/bin/c")], [Path("/opt/x")])
    assert found == ("/home/u/bin", "/usr/bin", "/opt/x", *(f for f in SYSTEM_PATH if f != "/usr/bin"))
    with pytest.raises(MailerError, match="colon"):
        search_path([Path("/a:b/c")])


@pytest.mark.parametrize("sub", ["auto-restart", "auto-restart-queued"])
def test_what_is_started_again_and_again_does_not_run_whatever_systemd_calls_it(tmp_path: Path, sub: str) -> None:
    """Newer ones have two words for it."""
    coder = Instance("coder", tmp_path, Path("/bin/sh"), ("/bin",))
    begins = UnitState(active="activating", sub="start", restarts=7, exit_status=1)
    assert problems_of(coder, begins) == ()
    [told] = problems_of(coder, msgspec.structs.replace(begins, sub=sub))
    assert "exit status 1, 7 times" in told.text
    assert told.fix == "agent-mailer service logs coder"
