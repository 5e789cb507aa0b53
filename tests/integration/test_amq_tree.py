"""An agent's workdir in a tree of AMQ: which session it joins, and mail for it that waits in another."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from tests.amq_tree import Project, header, inbox, mailbox, new, write
from tests.desk import Desk, outcomes
from tests.typed import type_in

FLAGS = ("--runtime", "command", "--command", "cat -", "--permission-mode", "plan", "--no-interactive")


def _root_of(workdir: Path) -> object:
    return tomllib.loads((workdir / ".agent-mailer/config.toml").read_text()).get("maildir_root")


def test_a_git_tree_that_appears_between_makes_no_other_mailbox(tmp_path: Path) -> None:
    (tmp_path / ".agent-mail").mkdir()
    workdir = tmp_path / "shop" / "coder"
    workdir.mkdir(parents=True)
    assert type_in(workdir, "init", "--address", "coder", *FLAGS).status == 0
    assert _root_of(workdir) == "../../.agent-mail"
    sent = type_in(workdir, "send", "--to", "coder", "--body", "hello")
    assert sent.status == 0, sent.err
    (tmp_path / "shop" / ".git").mkdir()
    assert [row["id"] for row in type_in(workdir, "mail", "inbox", "--as", "coder", "--json").json["messages"]] == [
        sent.out.strip()
    ]
    assert type_in(workdir, "watch", "--once").status == 0
    [answer] = inbox(tmp_path / ".agent-mail", "user")
    assert answer.refs == (sent.out.strip(),)


def test_a_root_in_the_workdir_moves_with_it_and_another_does_not(tmp_path: Path) -> None:
    workdir, other = tmp_path / "coder", tmp_path / "mail"
    workdir.mkdir()
    assert type_in(workdir, "init", "--address", "coder", *FLAGS).status == 0
    assert _root_of(workdir) == ".agent-mail"
    moved = workdir.rename(tmp_path / "moved")
    assert type_in(moved, "send", "--to", "coder", "--body", "x").status == 0
    assert len(inbox(moved / ".agent-mail", "coder")) == 1
    again = type_in(moved, "init", "--maildir-root", str(other))
    assert again.status == 0, again.err
    assert _root_of(moved) == str(other)
    assert type_in(moved, "init").out.startswith("unchanged")


@pytest.mark.parametrize("from_environment", [True, False])
def test_init_says_which_session_the_agent_joins(tmp_path: Path, from_environment: bool) -> None:
    shop = Project(tmp_path / "shop", "coder", name="shop")
    workdir = shop.top / "coder"
    workdir.mkdir()
    env = {"AM_ROOT": str(shop.collab)} if from_environment else {}
    done = type_in(workdir, "init", "--address", "coder", *FLAGS, env=env)
    assert done.status == 0, done.err
    if from_environment:
        assert f"joined    the session collab of {shop.base}" in done.out
        assert _root_of(workdir) == "../.agent-mail/collab"
    else:
        assert "joined    no session: mail in collab, web does not come here" in done.out
        assert _root_of(workdir) == "../.agent-mail"


def test_doctor_warns_of_mail_in_a_session_that_nobody_watches(tmp_path: Path) -> None:
    shop = Project(tmp_path / "shop", "coder", name="shop")
    workdir = shop.top / "coder"
    workdir.mkdir()
    assert type_in(workdir, "init", "--address", "coder", *FLAGS, env={"AM_ROOT": str(shop.collab)}).status == 0
    warned = _elsewhere(workdir)
    assert warned == []
    write(shop.web, "coder")
    write(shop.base, "coder")
    write(shop.web, "user")
    assert [(row["result"], "session web" in row["text"]) for row in _elsewhere(workdir)] == [
        ("warning", False),
        ("warning", True),
    ]


def _elsewhere(workdir: Path) -> list[dict[str, str]]:
    rows = type_in(workdir, "verify", "--json").json["checks"]
    return [row for row in rows if row["name"] == "elsewhere"]


@pytest.fixture
def amq() -> str:
    program = shutil.which("amq")
    if program is None:
        pytest.skip("amq is not on PATH")
    return program


def test_the_real_amq_gets_its_answers_from_every_session_and_project(tmp_path: Path, amq: str) -> None:
    """`bob` in session web, in another project, and one without a mailbox: each is answered, and can answer again."""
    tmp_path.chmod(0o755)
    shop = Project(tmp_path / "shop", "bob", "coder", name="shop", peers={"infra": "../infra/.agent-mail"})
    infra = Project(tmp_path / "infra", "bob", "ops", name="infra", peers={"shop": "../shop/.agent-mail"})

    def run(project: Project, root: Path, *words: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AM_ME": "bob", "AM_ROOT": str(root)}
        env |= {"AM_BASE_ROOT": str(project.base), "AMQ_NO_UPDATE_CHECK": "1"}
        done = subprocess.run([amq, *words], cwd=project.top, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        return done.stdout

    mailbox(shop.collab, "coder")
    run(shop, shop.web, "send", "--to", "coder", "--session", "collab", "--body", "from web")
    run(infra, infra.collab, "send", "--to", "coder@shop:collab", "--body", "from infra")
    desk_folder = tmp_path / "desk"
    desk_folder.mkdir()
    desk = Desk(desk_folder)
    desk.configure(maildir_root=str(shop.collab))
    assert outcomes(desk.once()) == ["done"] * 2
    for project, root in ((shop, shop.web), (infra, infra.collab)):
        assert len(inbox(root, "bob")) == 1
        [path] = new(root, "bob").iterdir()
        assert header(root, "bob")["from"] == "coder"
        run(project, root, "reply", "--id", path.stem, "--body", "thanks")
    assert sorted(message.body for message in inbox(shop.collab, "coder")) == ["thanks\n"] * 2
