"""What a person would else find out too late: nobody watches, it is paused, this is the wrong folder or no terminal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.sizes import LONG
from tests.typed import Typed, type_in

from agent_mailer.events import EventName
from agent_mailer.state.workdirs import remember, user_state


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def once(desk: Desk) -> Typed:
    """Afterwards this user's workdirs have it."""
    return type_in(desk.base, "watch", "--once", "--no-interactive", "-C", desk.workdir)


def test_who_writes_to_an_agent_that_nobody_watches_hears_of_it_once_and_doctor_calls_it_a_failure(desk: Desk) -> None:
    assert once(desk).status == 0
    well = type_in(desk.base, "doctor", "-C", desk.workdir)
    assert (well.status, "watched" in well.out) == (0, True)
    sent = type_in(desk.base, "send", "coder", "Hello", "-C", desk.workdir)
    assert sent.err == f"nobody watches for coder: agent-mailer watch -C {desk.workdir}\n"
    assert type_in(desk.base, "send", "user", "Hello", "-C", desk.workdir).err == ""
    ill = type_in(desk.base, "doctor", "-C", desk.workdir)
    assert ill.status == 1
    assert "1 message waits, and no watcher runs" in ill.out
    assert f"fix: agent-mailer watch -C {desk.workdir}" in ill.out


def test_a_hint_that_cannot_be_had_is_no_failure_of_what_was_sent(desk: Desk) -> None:
    folder = user_state() / "workdirs"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(folder)
    sent = type_in(desk.base, "send", "coder", "Hello", "-C", desk.workdir)
    assert (sent.status, len(sent.out.split())) == (0, 1), sent
    assert sent.err == (
        f"whether anybody watches cannot be seen: {folder}: Too many levels of symbolic links (ls -ld {folder})\n"
    )


def test_where_trust_is_not_kept_safely_that_comes_first_with_what_mends_it(desk: Desk) -> None:
    assert once(desk).status == 0
    keeper = desk.place().trust.keeper.folder
    keeper.chmod(0o777)
    first, *_ = type_in(desk.workdir, "status", "--json").json["problems"]
    assert first["text"] == f"what is trusted is not kept safely: {keeper} can be written by everybody"
    assert first["fix"] == f"chmod o-w {keeper}"
    keeper.chmod(0o700)
    assert "trust" not in " ".join(one["text"] for one in type_in(desk.workdir, "status", "--json").json["problems"])


def test_a_neighbour_whose_mailbox_is_gone_keeps_no_word_about_others_back(desk: Desk) -> None:
    for name in ("a", "z"):
        neighbour = Desk(desk.base / name)
        remember(neighbour.workdir)
        shutil.rmtree(neighbour.root)
    remember(desk.workdir)
    sent = type_in(desk.base, "send", "coder", "Hello", "--maildir-root", desk.root)
    assert (sent.status, sent.err) == (0, f"nobody watches for coder: agent-mailer watch -C {desk.workdir}\n")


@LONG
def test_with_a_watcher_nothing_is_said_and_init_does_not_advise_a_second_one(desk: Desk) -> None:
    with desk.watching() as watcher:
        until(lambda: desk.log(EventName.WATCH_STARTED), "the watcher starts")
        assert type_in(desk.base, "send", "coder", "Hello", "-C", desk.workdir).err == ""
        again = type_in(desk.workdir, "init")
        assert f"Its watcher runs (process {watcher.pid})." in again.out
        assert "  agent-mailer watch" not in again.out
        # In an empty folder a second watcher there is no advice either.
        other = desk.base / "other"
        other.mkdir()
        assert f"-C {desk.workdir}" not in type_in(other, "watch").err


def test_a_pause_is_on_the_front_page_whether_or_not_somebody_watches(desk: Desk) -> None:
    assert once(desk).status == 0
    assert type_in(desk.base, "pause", "-C", desk.workdir).status == 0
    front = type_in(desk.base, env={"COLUMNS": "300"}).out
    assert "no watcher, paused" in front
    assert f"agent-mailer resume -C {desk.workdir}" in front


def test_a_fix_is_for_the_folder_that_was_meant(desk: Desk) -> None:
    assert once(desk).status == 0
    half = desk.base / "half" / ".agent-mailer"
    half.mkdir(parents=True, mode=0o700)
    (half / "config.toml").write_text('address = "half"\ncommand = ["/bin/cat"]\npermission_mode = "plan"\n')
    (half / "config.toml").chmod(0o600)
    # Another agent's folder would mend nothing of this one.
    for words in (("watch", "--no-interactive"), ("test-runtime",)):
        assert type_in(half.parent, *words).err.endswith("  fix: agent-mailer config set runtime command\n")
    new = desk.base / "new"
    new.mkdir()
    watch = type_in(new, "watch")
    assert watch.err.split("fix: ")[1].startswith("agent-mailer init --address NAME --runtime RUNTIME")
    init = type_in(new, "init")
    assert "fix: agent-mailer init --address NAME" in init.err
    inside = desk.workdir / "src"
    inside.mkdir()
    assert f"fix: agent-mailer status -C {desk.workdir}" in type_in(inside, "status").err


def test_an_editor_that_needs_a_terminal_is_not_started_without_one(desk: Desk) -> None:
    for editor in ("vim", "/usr/bin/nano", ""):
        done = type_in(desk.workdir, "config", "edit", env={"EDITOR": editor, "VISUAL": ""})
        assert (done.status, "agent-mailer config set KEY VALUE" in done.err or "no editor" in done.err) == (2, True)
        assert not [*desk.state.glob("config-*.edit.toml")]
