"""What is wrong is told by the exit status too, whoever reads the rest: a timer looks at nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from tests.team_folder import team_in

from agent_mailer.checks.repair import RepairReport
from agent_mailer.checks.state import Left
from agent_mailer.cli.doctor import _show_repaired
from agent_mailer.cli.team.looking import status
from agent_mailer.disk import Disk
from agent_mailer.teams.kept import keep


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("well", [False, True])
def test_what_was_left_unmended(well: bool, as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    left = Left("/srv/coder", "it is no folder", "rm /srv/coder")
    with pytest.raises(typer.Exit) as ended:
        _show_repaired(RepairReport("/srv", well, (), () if well else (left,)), as_json=as_json)
    assert ended.value.exit_code == (0 if well else 1)
    said = capsys.readouterr().out
    assert (json.loads(said)["ok"] == well) if as_json else (("rm /srv/coder" in said) == (not well))


@pytest.mark.parametrize("as_json", [False, True])
def test_a_team_of_which_somebody_does_not_run(
    tmp_path: Path, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    team = team_in(tmp_path)
    state = team / "agents" / "shop_coder" / ".agent-mailer"
    state.mkdir()
    state.chmod(0o700)
    (state / "config.toml").touch(0o600)
    keep(team, Disk())
    with pytest.raises(typer.Exit) as ended:
        status("", "", team, live=False, as_json=as_json)
    assert ended.value.exit_code == 1
    said = capsys.readouterr().out
    assert not json.loads(said)["healthy"] if as_json else "shop_coder" in said
