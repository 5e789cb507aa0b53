"""What of ours, and of others, the agent programs keep their tools from."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_mailer.config import Config
from agent_mailer.config_tables import SandboxKeys
from agent_mailer.confine.port import MailboxAccess
from agent_mailer.errors import ConfigFault
from agent_mailer.fencing import reach_of
from agent_mailer.runtimes.port import Reach


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return tmp_path / "agents" / "coder"


def reach(workdir: Path, root: Path | None, *, config: Config | None = None, project: Path | None = None) -> Reach:
    file = workdir / ".agent-mailer" / "config.toml"
    return reach_of(config or Config(), file, workdir, project, lambda: root)


def test_the_configuration_the_users_state_and_the_mailbox_are_hidden(workdir: Path, home: Path) -> None:
    root = workdir.parent / ".agent-mail"
    found = reach(workdir, root)
    assert found.kept == (workdir / ".agent-mailer",)
    assert {workdir / ".agent-mailer" / "config.toml", home / ".agent-mailer" / "credentials.json", root} <= {
        *found.hidden
    }
    assert {home / place / "agent-mailer" for place in (".local/state", ".local/share", ".config")} <= {*found.hidden}


def test_of_a_session_the_whole_mailbox_is_hidden(workdir: Path) -> None:
    base = workdir.parent / ".agent-mail"
    assert base in reach(workdir, base / "collab").hidden


def test_an_agent_that_uses_the_mailbox_itself_keeps_it(workdir: Path) -> None:
    root = workdir.parent / ".agent-mail"
    config = Config(sandbox=SandboxKeys(mailbox=MailboxAccess.WRITE))
    assert root not in reach(workdir, root, config=config).hidden


def test_a_folder_in_which_the_agent_works_is_not_hidden_from_it(workdir: Path, tmp_path: Path) -> None:
    for root, project in ((workdir.parent, None), (workdir, None), (tmp_path / "p", tmp_path / "p" / "src")):
        assert root not in reach(workdir, root, project=project).hidden


def test_a_mailbox_that_is_not_found_hides_nothing(workdir: Path) -> None:
    def lost() -> Path:
        raise ConfigFault("no_root", "there is no mailbox", "")

    found = reach_of(Config(), workdir / ".agent-mailer" / "config.toml", workdir, None, lost)
    assert found.hidden == reach(workdir, None).hidden
