"""A team in a tree of AMQ's co-op, and AMQ's agents in a team's own tree. With the real amq where it is on PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.amq_tree import Project, inbox, mailbox, write
from tests.desk import until
from tests.sizes import LONG
from tests.team_desk import TeamDesk

from agent_mailer.mailbox.maildir.layout import roster


@LONG
def test_a_team_joins_the_tree_of_amqs_co_op(team_desk: TeamDesk) -> None:
    made = ("--runtime", "command", "--command", "cat", "--amq")
    missing = team_desk.amp("init", *made)
    assert (missing.status, "amq coop init" in missing.err) == (78, True), missing
    assert not team_desk.team.exists()
    tree = Project(team_desk.project, "claude", "codex")
    both = team_desk.amp("init", *made, "--local")
    assert (both.status, "give one of --local, --amq" in both.err) == (2, True), both
    joined = team_desk.made("--amq", "--detach", verb="up")
    assert f"AMQ's tree {tree.collab}" in joined.out
    assert {"claude", "shop_coder", "shop_reviewer"} <= set(roster(tree.base))
    asked = write(tree.collab, "shop_coder", sender="claude")
    until(lambda: inbox(tree.collab, "claude"), "its answer to an agent of AMQ's")
    [answer] = inbox(tree.collab, "claude")
    assert (answer.envelope.sender, answer.refs, answer.body.strip()) == ("shop_coder", (asked,), "it is done")
    assert team_desk.amp("ask", "do it", "--wait", "60").status == 0
    assert team_desk.amp("up", "--amq", "--detach").status == 0
    other = team_desk.amp("up", "--local", "--detach")
    assert (other.status, "--local" in other.err) == (2, True), other
    assert team_desk.amp("stop").status == 0
    assert "still at" in team_desk.amp("rm", "shop", "--yes").err
    assert mailbox(tree.collab, "shop_coder").is_dir(), "the tree is not the team's to delete"


@pytest.fixture
def amq() -> str:
    program = shutil.which("amq")
    if program is None:
        pytest.skip("amq is not on PATH")
    return program


@LONG
@pytest.mark.parametrize("whose", ["amq's", "the team's"])
def test_the_real_amq_coop_exec_works_with_a_team(team_desk: TeamDesk, amq: str, whose: str, tmp_path: Path) -> None:
    here = team_desk.project

    def run(*words: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AMQ_NO_UPDATE_CHECK": "1"}
        done = subprocess.run([amq, *words], cwd=here, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        return done.stdout

    if whose == "amq's":
        run("coop", "init", "--agents", "claude,user")
        team_desk.made("--amq", "--detach", verb="up")
        where: tuple[str, ...] = ()
    else:
        team_desk.up()
        where = ("--root", str(team_desk.team / ".agent-mail"))
    joined = ("coop", "exec", "--no-wake", *where, "--me", "claude", "amq", "--")
    run(*joined, "send", "--to", "shop_coder", "--subject", "From amq", "--body", "do it")
    run(*joined, "watch", "--timeout", "60s")
    drained = run(*joined, "drain", "--include-body")
    assert ("From: shop_coder" in drained, "Re: From amq" in drained, "it is done" in drained) == (True,) * 3, drained
