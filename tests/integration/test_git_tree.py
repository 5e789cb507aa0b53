"""An agent's workdir and mailbox in a git tree: what people and agents type there neither takes nor deletes them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.desk import CLI, SOON, Desk, until
from tests.integration.test_engine_turn import Ahead
from tests.integration.test_start_faults import can_mount
from tests.powers import no_powers
from tests.sizes import LONG
from tests.typed import COMMAND, type_in

from agent_mailer.assemble import Workplace
from agent_mailer.checks import CheckResult, Level
from agent_mailer.checks.git import check_git
from agent_mailer.confine.bounds import Places, bounds_of
from agent_mailer.confine.port import Access, TurnPlaces
from agent_mailer.disk import Disk
from agent_mailer.errors import ExitCode
from agent_mailer.events import EventName
from agent_mailer.git_tree import Part, keep_out
from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.runtimes.codex.policy import PROFILE, Ground, policy
from agent_mailer.runtimes.port import PermissionMode, Reach
from agent_mailer.watch.trees import GONE_SECONDS, _git_of, _Trees, keep_out_of_trees

pytestmark = pytest.mark.skipif(shutil.which("git") is None and "CI" not in os.environ, reason="git is not installed")

FLAGS = ("--address", "coder", "--runtime", "command", "--command", "cat -", "--permission-mode", "plan")
OURS = (".agent-mailer", ".agent-mail")
LINES = ["/.agent-mailer/", "/.agent-mail/"]

TABLE = (
    *("stash -u", "stash -a", "stash pop", "stash", "reset --hard", "reset --hard HEAD~", "reset --hard ORIG_HEAD"),
    *("checkout -f .", "checkout -f -b side", "checkout -f main", "clean -fd", "clean -fdx", "clean -fdX"),
    *("clean -fdx .agent-mail", "clean -fdx -- .agent-mailer/config.toml", "add -A", "add .", "add --force --all"),
    *("add -f .agent-mail", "add -f .agent-mailer/config.toml", "add -f .agent-mailer/*", "commit -qam work"),
    *("commit -q --allow-empty -m more", "rm -rfq --ignore-unmatch .agent-mail", "gc -q --prune=now"),
    *("worktree add -q ../beside", "worktree remove --force ../beside", "submodule status", "merge side"),
    *("-C .agent-mail clean -ffdx", "-C .agent-mailer stash -a", "-C .agent-mailer add -A"),
    *("-C .agent-mailer reset --hard", "sparse-checkout set nothing", "sparse-checkout disable"),
)  # fmt: skip


def git(top: Path, *words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(top), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    settings = ("user.name=n", "user.email=n@example.com", "init.defaultBranch=main", "protocol.file.allow=always")
    command = ["git", *(word for setting in settings for word in ("-c", setting)), *words]
    return subprocess.run(command, cwd=top, env=env, capture_output=True, text=True, check=check, timeout=60)


def make_project(top: Path) -> Path:
    top.mkdir(parents=True, exist_ok=True)
    git(top, "init", "-q", check=True)
    for text in ("one\n", "two\n"):
        (top / "code.txt").write_text(text)
        git(top, "add", "-A", check=True)
        git(top, "commit", "-qm", text, check=True)
    return top


def set_up(workdir: Path, *flags: str) -> str:
    done = type_in(workdir, "init", *FLAGS, *flags)
    assert done.status == 0, done
    return done.out


def files(*folders: Path) -> dict[Path, str]:
    """Content by path; what is only just arriving is nobody's yet."""
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.parent.name != "tmp"]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def look(workdir: Path) -> list[CheckResult]:
    """What `doctor` says of git."""
    place = Workplace(workdir)
    return check_git(workdir, place.folders_in_git(), place.config.git)


def faults(workdir: Path) -> list[CheckResult]:
    return [found for found in look(workdir) if found.result is not Level.OK]


@contextmanager
def mail_arrives(workdir: Path) -> Iterator[list[str]]:
    """A message every few milliseconds, until the block ends; what was delivered."""
    paths, over, sent = Paths(workdir / ".agent-mail", "coder"), threading.Event(), list[str]()

    def deliver() -> None:
        while not over.wait(0.005):
            name = f"2026-01-01T00-00-00.000Z_pid1_{len(sent):08x}.md"
            (paths.tmp / name).write_bytes(b"---json\n{}\n---\n%d\n" % len(sent))
            (paths.tmp / name).rename(paths.new / name)
            sent.append(name)

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()
    assert {path.name for path in paths.new.iterdir()} >= set(sent)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "shop")


def test_whatever_git_does_every_file_of_ours_stays_while_mail_arrives(project: Path) -> None:
    set_up(project)
    ours = [project / name for name in OURS]
    with mail_arrives(project) as sent:
        for words in TABLE:
            (project / "code.txt").write_text(words)
            (project / "scratch").write_text(words)
            before = files(*ours)
            git(project, *words.split())
            after = files(*ours)
            assert {path: after.get(path) for path in before} == before, words
            assert git(project, "ls-files", *OURS).stdout == "", words
    assert len(sent) > len(TABLE)
    said = git(project, "log", "--all", "--stat", "--format=").stdout
    assert "code.txt" in said
    assert "agent-mail" not in said
    assert faults(project) == []
    # The one word that deletes them, and our documents say so: without it this test could not fail.
    git(project, "clean", "-ffdx")
    assert files(*ours) == {}


@LONG
@pytest.mark.parametrize("part", ["the line", "the shelter"])
def test_either_alone_is_not_enough(project: Path, part: str) -> None:
    """So no shelter can be there before there is a tree: the first `add` in it would be refused, ignored or not."""
    set_up(project)
    ours = [project / name for name in OURS]
    if part == "the line":
        for folder in ours:
            shutil.rmtree(folder / ".git")
        git(project, "clean", "-fdx")
        assert files(*ours) == {}
    else:
        (project / ".git" / "info" / "exclude").write_text("")
        for folder in ours:
            (folder / ".gitignore").write_text("*\n")
        assert "does not have a commit checked out" in git(project, "add", "-A").stderr
    assert {row.looked_at for row in faults(project)} <= {str(folder) for folder in ours}


def test_init_tells_of_what_git_has_already(project: Path) -> None:
    (project / OURS[0]).mkdir(mode=0o700)
    (project / OURS[0] / "config.old").write_text("")
    assert git(project, "add", "-A").returncode == 0
    said = set_up(project)
    [mend] = re.findall(r"git tracks 1 of its files: .*; (git .*)", said)
    assert subprocess.run(["/bin/sh", "-c", mend], capture_output=True, check=False).returncode == 0
    assert "git tracks" not in set_up(project)


@pytest.mark.parametrize("file", [".gitignore", "in/.gitignore"])
def test_init_tells_of_a_pattern_that_takes_us_in_again_and_what_it_says_mends_it(project: Path, file: str) -> None:
    """As in projects that ignore everything and name what is theirs: there `git add -A` would fail from now on."""
    workdir = (project / file).parent
    workdir.mkdir(exist_ok=True)
    (project / file).write_text("*\n!*/\n!*.py\n!.gitignore")
    said = set_up(workdir, "--maildir-root", str(workdir / OURS[1]))
    assert git(project, "add", "-A").returncode != 0
    mends = re.findall(r"takes it in again.*; (printf .*)", said)
    assert len(mends) == len(OURS), said
    for mend in mends:
        subprocess.run(["/bin/sh", "-c", mend], check=True)
    assert git(project, "add", "-A").returncode == 0
    assert not faults(workdir)
    assert "takes it in again" not in set_up(workdir)


def test_init_leaves_the_projects_gitignore_alone_and_writes_nothing_twice(project: Path) -> None:
    (project / ".gitignore").write_text("*.o")
    exclude = project / ".git" / "info" / "exclude"
    exclude.write_text("mine")
    said = set_up(project)
    assert f"ignored   .agent-mailer/ and .agent-mail/ in {exclude}" in said
    assert exclude.read_text() == "mine\n/.agent-mailer/\n/.agent-mail/\n"
    assert (project / ".gitignore").read_text() == "*.o"
    before = files(project)
    set_up(project)
    assert files(project) == before
    assert git(project, "status", "--short").stdout == "?? .gitignore\n"


@LONG
def test_who_wants_it_in_git_is_heeded_until_he_says_otherwise(project: Path) -> None:
    set_up(project, "--no-gitignore")
    exclude = project / ".git" / "info" / "exclude"
    text = exclude.read_text()
    type_in(project, "watch", "--once")
    assert type_in(project, "doctor", "--repair").status == 0
    set_up(project)
    assert exclude.read_text() == text
    assert faults(project) == []
    set_up(project, "--gitignore")
    assert exclude.read_text().splitlines()[-2:] == LINES


def test_an_older_workdir_is_told_of_and_brought_over(project: Path) -> None:
    set_up(project, "--no-gitignore", "--maildir-root", "mail")
    type_in(project, "config", "set", "git", "keep-out")
    (project / ".gitignore").write_text(".agent-mailer/\nmail/\n")
    (project / "src" / "mail").mkdir(parents=True)
    (project / "src" / "mail" / "send.py").write_text("pass\n")
    found = {row.looked_at: row for row in faults(project)}
    for folder in (".agent-mailer", "mail"):
        assert found[str(project / folder)].fix == "agent-mailer doctor --repair"
    assert "hides every folder of that name" in found[str(project / ".gitignore")].text
    done = type_in(project, "doctor", "--repair")
    assert (done.status, done.out.count("keeps git out of")) == (0, 4)
    assert [row.looked_at for row in faults(project)] == [str(project / ".gitignore")]
    (project / ".gitignore").unlink()
    assert faults(project) == []
    assert git(project, "status", "--short", "-uall").stdout == "?? src/mail/send.py\n"
    assert type_in(project, "doctor", "--repair").out == "nothing to repair\n"


def test_what_amq_has_written_into_the_projects_gitignore_is_no_leftover_of_ours(project: Path) -> None:
    set_up(project)
    (project / ".gitignore").write_text("# Agent Message Queue\n.agent-mail/\n.amqrc\n")
    assert "can go" not in said(project)
    (project / ".gitignore").write_text("# Agent Message Queue\n.amqrc\n\n.agent-mail/\n")
    assert "the line .agent-mail/ of an earlier version" in said(project)


def said(project: Path) -> str:
    return "\n".join(row.text for row in look(project))


@LONG
def test_names_that_are_patterns_mean_themselves(tmp_path: Path) -> None:
    project = make_project(tmp_path / "shop")
    for name in ("a*[b]?", "back\\slash", " ü ", "line\nbreak"):
        workdir = project / name / "agent"
        workdir.mkdir(parents=True)
        set_up(workdir, "--maildir-root", str(workdir / ".agent-mail"))
        assert faults(workdir) == [], name
    (project / "ab" / "agent" / ".agent-mail").mkdir(parents=True)
    (project / "ab" / "agent" / ".agent-mail" / "theirs").write_text("x")
    git(project, "add", "-A", check=True)
    assert git(project, "ls-files").stdout == "ab/agent/.agent-mail/theirs\ncode.txt\n"
    git(project, "clean", "-fdxq")
    assert len(list(project.glob("*/agent/.agent-mailer/config.toml"))) == 4


def test_a_worktree_is_kept_and_kept_from_being_removed(project: Path) -> None:
    tree = project.parent / "beside"
    git(project, "worktree", "add", "-q", str(tree), check=True)
    set_up(tree)
    assert faults(tree) == []
    assert (project / ".git" / "info" / "exclude").read_text().splitlines()[-2:] == LINES
    before = files(tree / ".agent-mailer", tree / ".agent-mail")
    for words in ("add -A", "stash -a", "clean -fdx", f"worktree remove {tree}", f"worktree remove --force {tree}"):
        git(tree, *words.split())
        assert files(tree / ".agent-mailer", tree / ".agent-mail") == before, words
    assert "an agent of agent-mailer lives in it" in git(project, "worktree", "remove", str(tree)).stderr


@LONG
@pytest.mark.parametrize(
    ("workdir", "words"),
    [("shop/services/api", "sparse-checkout set web"), ("beside", "worktree remove -f -f ../beside")],
)
def test_what_git_deletes_all_the_same_is_named_before(project: Path, workdir: str, words: str) -> None:
    """Without the words this test could not fail: should a git heed us there, the documents can say so."""
    for folder in ("services/api", "web"):
        (project / folder).mkdir(parents=True)
        (project / folder / "code.txt").write_text("x")
    git(project, "add", "-A", check=True)
    git(project, "commit", "-qm", "folders", check=True)
    git(project, "worktree", "add", "-q", "../beside", check=True)
    place = project.parent / workdir
    # A root of its own: where there is one above, or at the top, mail lies there.
    set_up(place, "--maildir-root", str(place / ".agent-mail"))
    command = " ".join(words.split()[:-1]).removesuffix(" set")
    assert all(f"`git {command}`" in row.text for row in look(place))
    assert faults(place) == []
    git(project, *words.split(), check=True)
    assert files(place) == {}


@LONG
def test_who_removes_a_submodule_removes_all_of_it_and_is_told_so_before(project: Path) -> None:
    """Git asks nobody of what is ignored in it. A watcher notices, and makes nothing in its place."""
    outer = make_project(project.parent / "outer")
    git(outer, "submodule", "add", "-q", str(project), "lib/part", check=True)
    git(outer, "commit", "-qm", "part", check=True)
    part = outer / "lib" / "part"
    told = f"`git rm` and `git submodule deinit` in {outer} delete it"
    assert told in set_up(part)
    assert faults(part) == []
    assert all(told in row.text for row in look(part))
    for words in ("clean -ffdx", "stash -a", "submodule update --force", "submodule foreach git clean -fdx"):
        before = files(part / ".agent-mailer", part / ".agent-mail")
        git(outer, *words.split())
        assert files(part / ".agent-mailer", part / ".agent-mail") == before, words
    watcher = subprocess.Popen([*CLI, "watch", "--no-interactive", "-C", str(part)], stdout=subprocess.DEVNULL)
    try:
        until(lambda: type_in(part, "status").status == 0, "the watcher")
        # Where the watcher writes just then git finds a folder that is not empty, and has to be told again.
        said: list[str] = []

        def removed() -> bool:
            said.append(git(outer, "rm", "-qrf", "lib/part").stderr)
            return not part.exists()

        began = time.monotonic()
        until(removed, f"git has removed it: {said}")
        took = time.monotonic() - began
        assert watcher.wait(SOON) == ExitCode.CONFIG
    finally:
        watcher.kill()
        watcher.wait()
    assert not part.exists(), list(part.rglob("*"))
    # A folder that stays for seconds after its tree is gone is the outer tree's, and is kept out of that.
    if took < GONE_SECONDS:
        assert "part" not in (outer / ".git" / "info" / "exclude").read_text()


@LONG
def test_a_submodule_and_a_bare_repository_with_worktrees(project: Path) -> None:
    outer = make_project(project.parent / "outer")
    git(outer, "submodule", "add", "-q", str(project), "part", check=True)
    set_up(outer / "part")
    assert (outer / ".git" / "modules" / "part" / "info" / "exclude").read_text().splitlines()[-2:] == LINES
    bare = project.parent / "bare"
    bare.mkdir()
    git(bare, "clone", "-q", "--bare", str(project), ".bare", check=True)
    (bare / ".git").write_text("gitdir: ./.bare\n")
    git(bare, "worktree", "add", "-q", "main", check=True)
    set_up(bare / "main")
    for top, words in ((outer, "clean -fdx"), (outer / "part", "clean -fdx"), (bare / "main", "stash -a")):
        git(top, *words.split())
    for workdir in (outer / "part", bare / "main"):
        assert faults(workdir) == []
        assert (workdir / ".agent-mailer" / "config.toml").exists()
        assert git(workdir, "status", "--short").stdout == ""


def test_a_tree_that_appears_is_noticed_and_one_that_goes_is_no_trouble(tmp_path: Path) -> None:
    workdir = tmp_path / "shop"
    workdir.mkdir()
    set_up(workdir, "--maildir-root", ".agent-mail")
    assert faults(workdir) == []
    assert not (workdir / ".agent-mailer" / ".git").exists()
    # An agent's, in the middle of a turn: nobody has looked yet.
    type_in(workdir, "watch", "--once")
    make_project(workdir)
    assert git(workdir, "ls-files").stdout == "code.txt\n"
    assert {row.result for row in faults(workdir)} == {"warning"}
    done = type_in(workdir, "watch", "--once")
    assert done.out.count('"event":"git_kept_out"') == 2
    assert faults(workdir) == []
    assert "git_kept_out" not in type_in(workdir, "watch", "--once").out
    shutil.rmtree(workdir / ".git")
    assert type_in(workdir, "watch", "--once").status == 0
    assert faults(workdir) == []
    make_project(workdir / "other")


def test_a_watcher_that_waits_keeps_a_new_tree_out_at_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with desk.watching():
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher")
        before = files(desk.state)
        for top in (desk.workdir, tmp_path):
            git(top, "init", "-q", check=True)
            exclude = top / ".git" / "info" / "exclude"
            until(partial(_names, exclude, f"/{desk.state.name}/"), f"the line in {exclude}")
            assert git(top, "add", "-A").returncode == 0
            git(top, "clean", "-fdxq")
            after = files(desk.state)
            assert {path for path in before if path not in after} == set()
            shutil.rmtree(top / ".git")
        assert not desk.log(EventName.GIT_TROUBLE)
    assert not desk.log(EventName.TURN_STARTED)


@LONG
def test_a_watcher_that_waits_follows_a_tree_that_is_made_anew_or_goes(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    inner, outer = (top / ".git" / "info" / "exclude" for top in (desk.workdir, tmp_path))
    git(desk.workdir, "init", "-q", check=True)
    with desk.watching():
        until(partial(_names, inner, "/.agent-mailer/"), "the line of the start")
        shutil.rmtree(desk.workdir / ".git")
        git(desk.workdir, "init", "-q", check=True)
        until(partial(_names, inner, "/.agent-mailer/"), "the line in the one that was made anew")
        git(tmp_path, "init", "-q", check=True)
        assert not _names(outer, ".agent-mailer")
        # What `checkout --recurse-submodules` leaves of a submodule.
        shutil.rmtree(desk.workdir / ".git")
        until(partial(_names, outer, "/coder/.agent-mailer/"), "the line in the tree further out")
        assert git(tmp_path, "add", "-A").returncode == 0
    assert not desk.log(EventName.TURN_STARTED)


def test_a_tree_that_git_works_in_is_the_same_and_one_that_is_made_anew_is_not(tmp_path: Path) -> None:
    top = make_project(tmp_path / "shop")
    known = _git_of(top)
    git(top, "commit", "-q", "--allow-empty", "-m", "nothing", check=True)
    assert _git_of(top) == known is not None
    shutil.rmtree(top / ".git")
    git(top, "init", "-q", check=True)
    assert _git_of(top) != known


def test_a_tree_that_goes_before_the_first_look_gives_its_folder_to_no_tree_further_out(tmp_path: Path) -> None:
    """Whoever removes it deletes us next."""
    outer = make_project(tmp_path)
    desk = Desk(tmp_path)
    git(desk.workdir, "init", "-q", check=True)
    place = desk.place()
    lock = place.lock()
    lock.acquire()

    async def look() -> None:
        keeping = keep_out_of_trees(place.room(lock), two_looks)
        shutil.rmtree(desk.workdir / ".git")
        await keeping

    async def two_looks(_: Callable[[], Awaitable[None]], heed: Callable[[], bool] | None) -> None:
        assert heed is not None
        heed()
        # One that comes is not waited for.
        git(desk.workdir, "init", "-q", check=True)
        heed()

    try:
        asyncio.run(look())
    finally:
        lock.release()
    assert not _names(outer / ".git" / "info" / "exclude", desk.workdir.name)
    assert _names(desk.workdir / ".git" / "info" / "exclude", "/.agent-mailer/")


@pytest.mark.parametrize("for_good", [False, True])
def test_each_tree_that_goes_is_waited_for_whatever_became_of_one_before(tmp_path: Path, for_good: bool) -> None:
    """What we made in the tree further out would be in the way of whoever goes on removing."""
    outer = make_project(tmp_path) / ".git" / "info" / "exclude"
    desk, clock = Desk(tmp_path), Ahead()
    place = desk.place(clock)
    lock = place.lock()
    lock.acquire()

    async def looks(_: Callable[[], Awaitable[None]], heed: Callable[[], bool] | None) -> None:
        assert heed is not None

        def comes() -> None:
            git(desk.workdir, "init", "-q", check=True)
            heed()
            outer.write_text("")

        def goes() -> None:
            shutil.rmtree(desk.workdir / ".git")
            heed()
            assert not _names(outer, desk.workdir.name)

        comes()
        goes()
        if for_good:
            clock.ahead += GONE_SECONDS + 1
            heed()
            assert _names(outer, desk.workdir.name)
        comes()
        clock.ahead += GONE_SECONDS + 1
        goes()

    try:
        asyncio.run(keep_out_of_trees(place.room(lock), looks))
    finally:
        lock.release()


def test_a_folder_above_that_may_not_be_read_is_not_asked_for_again_and_again(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    desk = Desk(closed)
    place = desk.place()
    lock = place.lock()
    lock.acquire()

    async def look() -> None:
        with no_powers():
            await (trees := _Trees(place.room(lock))).go_on(lambda *_: sees(trees))

    async def sees(trees: _Trees) -> None:
        assert trees._events.sees

    closed.chmod(0o311)
    try:
        asyncio.run(look())
    finally:
        closed.chmod(0o700)
        lock.release()


def _names(path: Path, text: str) -> bool:
    return text in path.read_text()


PLANTED = {
    "commondir": "{other}/.git\n",
    "worktree": "gitdir: {other}/.git/worktrees/beside\n",
    "submodule": "gitdir: {other}/.git/modules/part\n",
    "a way round": "gitdir: round/../../other/.git/worktrees/beside\n",
    "link": "",
}


@pytest.mark.parametrize("how", PLANTED)
def test_nothing_is_written_where_a_planted_git_leads(project: Path, tmp_path: Path, how: str) -> None:
    """Neither by us, nor by a turn that we let write into its repository."""
    set_up(project)
    other, text = make_project(tmp_path / "other"), PLANTED[how].format(other=tmp_path / "other")
    git(other, "worktree", "add", "-q", str(tmp_path / "beside"), check=True)
    git(other, "submodule", "add", "-q", str(other), "part", check=True)
    (other / ".git" / "hooks").mkdir(exist_ok=True)
    before = files(other)
    if how == "commondir":
        (project / ".git" / how).write_text(text)
    else:
        shutil.rmtree(project / ".git")
        (project / "round").mkdir()
        (project / ".git").write_text(text) if text else (project / ".git").symlink_to(other / ".git")
    for name in OURS:
        # Git works there all the same, with what is another's.
        shutil.rmtree(project / name / ".git")
        made, fault = keep_out(Disk(), project / name)
        assert fault is not None
        assert "may be others'" in fault.message if how == "link" else "knows nothing of it" in fault.message
        assert "git " not in fault.fix.replace(".git", "")
        assert [lack.part for lack in made] == [Part.SHELTER]
    assert files(other) == before
    git(project, "clean", "-fdx")
    assert (project / ".agent-mailer" / "config.toml").exists()
    lent = [path for path in writable(project) if path.is_relative_to(other)]
    assert lent == []


def writable(project: Path) -> list[Path]:
    """What a turn in `project` may write: within a sandbox of ours, and within codex's own."""
    turn = project / ".agent-mailer" / "turns" / "t"
    places = Places(project, project / ".agent-mailer", project.parent / "home", project.parent / "cache")
    bounds = bounds_of(places, TurnPlaces(turn, turn / "outbox", turn / "tmp"), Path("/bin/sh"), None, {})
    home = project.parent / "codex"
    words = policy(PermissionMode.ACCEPT_EDITS, Reach(), Ground(project), {"TMPDIR": "/nowhere"}, home, (), None).words
    [profile] = [tomllib.loads(word)["permissions"] for word in words if word.startswith("permissions.")]
    named = profile[PROFILE]["filesystem"]
    within = [rule.path for rule in bounds.rules if rule.access is Access.WRITE]
    return [*within, *(Path(path) for path, access in named.items() if access == "write")]


@LONG
def test_a_turn_writes_the_repository_that_says_it_is_its_own(project: Path, tmp_path: Path) -> None:
    """A worktree's, a submodule's, and that of a submodule within a worktree."""
    part = make_project(tmp_path / "part")
    git(project, "submodule", "add", "-q", str(part), "lib/part", check=True)
    git(project, "commit", "-qm", "part", check=True)
    git(project, "worktree", "add", "-q", str(tmp_path / "beside"), check=True)
    git(tmp_path / "beside", "submodule", "update", "--init", "-q", check=True)
    main = project / ".git"
    for work, folder in (
        (tmp_path / "beside", main),
        (project / "lib" / "part", main / "modules" / "lib" / "part"),
        (tmp_path / "beside" / "lib" / "part", main / "worktrees" / "beside" / "modules" / "lib" / "part"),
    ):
        (folder / "hooks").mkdir(exist_ok=True)
        assert writable(work).count(folder) == 2, work
        set_up(work)
        assert faults(work) == [], work


@LONG
def test_a_git_folder_elsewhere_counts_once_it_names_its_tree(tmp_path: Path) -> None:
    project = tmp_path / "shop"
    project.mkdir()
    git(project, "init", "-q", "--separate-git-dir", str(tmp_path / "elsewhere"), check=True)
    assert "knows nothing of it" in set_up(project)
    assert git(project, "add", "-A").returncode != 0
    git(project, "config", "core.worktree", str(project), check=True)
    assert type_in(project, "doctor", "--repair").status == 0
    assert faults(project) == []
    assert (tmp_path / "elsewhere" / "info" / "exclude").read_text().splitlines()[-2:] == LINES
    assert git(project, "add", "-A").returncode == 0
    git(project, "clean", "-fdxq")
    assert (project / ".agent-mailer" / "config.toml").exists()


def test_a_git_file_that_points_nowhere(project: Path) -> None:
    shutil.rmtree(project / ".git")
    (project / ".git").write_text(f"gitdir: {project}/gone\n")
    assert "warning   git may take .agent-mailer/ along" in set_up(project)
    assert {row.result for row in look(project)} == {"warning"}
    assert type_in(project, "watch", "--once").out.count('"event":"git_trouble"') == 2
    assert type_in(project, "doctor", "--repair").status == 1


@pytest.mark.parametrize(
    "kind", ["a link", *(pytest.param(kind, marks=LONG) for kind in ("a folder", "a link above", "not to be written"))]
)
def test_an_exclude_file_that_is_not_written_to(project: Path, kind: str) -> None:
    info = project / ".git" / "info"
    other = project.parent / "everybodys"
    (info / "exclude").unlink()
    if kind == "a link":
        other.write_text("theirs\n")
        (info / "exclude").symlink_to(other)
    elif kind == "a folder":
        (info / "exclude").mkdir()
    elif kind == "a link above":
        info.rmdir()
        other.mkdir()
        info.symlink_to(other)
    else:
        (info / "exclude").touch(0o400)
    if kind == "not to be written" and os.geteuid() == 0:
        if not can_mount():
            pytest.skip("root writes everywhere, and nothing can be mounted here")
        script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
        words = ["unshare", "-m", "sh", "-c", script, str(info), COMMAND]
    else:
        words = [COMMAND]
    said = subprocess.run([*words, "init", *FLAGS], cwd=project, capture_output=True, text=True, check=True).stdout
    assert said.count("warning   git may take") == 2
    assert str(info) in said
    repair = subprocess.run([*words, "doctor", "--repair", "--json"], cwd=project, capture_output=True, check=False)
    assert (repair.returncode, len(json.loads(repair.stdout)["left"])) == (1, 2)
    if kind == "a link":
        assert other.read_text() == "theirs\n"
        # Better no `add -A` at all than one that takes the key.
        git(project, "add", "-A")
        assert git(project, "ls-files", *OURS).stdout == ""
        other.write_text("theirs\n/.agent-mailer/\n/.agent-mail/\n")
        assert faults(project) == []
    if kind == "a link above":
        assert list(other.iterdir()) == []


def test_a_workdir_inside_git_itself(project: Path) -> None:
    workdir = project / ".git" / "agents" / "coder"
    workdir.mkdir(parents=True)
    set_up(workdir, "--maildir-root", str(workdir / ".agent-mail"))
    assert "agent-mail" not in (project / ".git" / "info" / "exclude").read_text()
    assert all("lies in git's own folder" in row.text for row in look(workdir))
    git(project, "gc", "-q", "--prune=now")
    assert (workdir / ".agent-mailer" / "config.toml").exists()
    assert type_in(workdir, "watch", "--once").status == 0


@LONG
def test_a_pattern_of_the_project_that_takes_us_in_again_is_named(project: Path) -> None:
    set_up(project)
    (project / ".gitignore").write_text("!.agent-mailer/\n")
    [found] = faults(project)
    assert (found.looked_at, found.result) == (str(project / ".agent-mailer"), "warning")
    assert ".gitignore:1:!.agent-mailer/" in found.text


@LONG
def test_looking_runs_nothing_that_the_project_configures(project: Path) -> None:
    ran = project.parent / "ran"
    hook = project / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
    hook.chmod(0o755)
    git(project, "config", "core.fsmonitor", str(hook), check=True)
    git(project, "config", "core.hooksPath", str(project), check=True)
    set_up(project)
    assert faults(project) == []
    assert type_in(project, "watch", "--once").status == 0
    assert type_in(project, "doctor", "--repair").status == 0
    assert not ran.exists()


@LONG
def test_the_shelter_is_no_top_of_a_project(project: Path) -> None:
    set_up(project)
    session = project / ".agent-mail" / "collab"
    shutil.copytree(project / ".agent-mail" / "agents", session / "agents")
    inside = project / ".agent-mailer" / "memory"
    shown = type_in(inside, "mail", "who", "--json", env={"AM_ME": "user"})
    assert shown.status == 0, shown
    assert not (project / ".agent-mailer" / ".agent-mail").exists()
    set_up(project, "--maildir-root", str(session))
    assert not (session / ".git").exists()
    assert faults(project) == []


@LONG
def test_a_project_whose_top_is_the_mailbox_root(project: Path) -> None:
    said = set_up(project, "--maildir-root", str(project))
    assert "warning" not in said
    git(project, "add", "-A")
    git(project, "clean", "-fdxq")
    assert git(project, "ls-files").stdout == "code.txt\n"
    assert (project / "agents" / "coder" / "inbox" / "new").is_dir()
    assert faults(project) == []


def test_a_folder_that_is_somebodys_repository_stays_it(project: Path) -> None:
    set_up(project, "--no-gitignore")
    git(project / ".agent-mail", "init", "-q", check=True)
    before = files(project / ".agent-mail" / ".git")
    made, fault = keep_out(Disk(), project / ".agent-mail")
    assert ([lack.path.name for lack in made], fault) == (["exclude"], None)
    assert files(project / ".agent-mail" / ".git") == before


@LONG
def test_an_agents_own_git_commands_lose_no_mail(tmp_path: Path) -> None:
    """The whole table, typed by turns in the workdir, while the watcher works on mail that goes on coming."""
    make_project(tmp_path / "coder")
    desk = Desk(tmp_path)
    words = "; ".join(f"git {words} >/dev/null 2>&1" for words in TABLE if "beside" not in words)
    desk.shell(f"cat >/dev/null; export HOME=$PWD/.. GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=e; {words}; echo done")
    with desk.watching():
        for number in range(8):
            desk.send(f"number {number}", thread=f"t{number}")
        until(lambda: len(desk.log(EventName.MESSAGE_DONE)) == 8, "eight turns")
    assert len(desk.inbox()) == 8
    assert desk.log(EventName.STATE_DAMAGED) == []
    assert git(desk.workdir, "ls-files").stdout == "code.txt\n"
