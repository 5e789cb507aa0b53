"""Files that are copied, typed or synchronised into the inbox: none is taken, or refused, before it is whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.desk import Desk, until
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer import arriving as module
from agent_mailer.arriving import OPEN_SECONDS, STILL_SECONDS, Arriving, Writer, writer_of
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.layout import Paths

TEXT = (
    '---json\n{"schema":1,"id":"%s","from":"user","to":["coder"],"thread":"%s","subject":"s",'
    '"created":"2026-01-01T00:00:00.000Z","priority":"normal","kind":"question"}\n---\nDo not\ndelete it all\n'
)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Its agent writes down what it was asked."""
    found = Desk(tmp_path)
    found.shell(f"cat >/dev/null; agent-mailer mail read | tail -1 >>{found.witness}; echo done")
    return found


class Ticks:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def asked(desk: Desk) -> list[str]:
    return desk.witness.read_text().splitlines() if desk.witness.exists() else []


def message(number: int) -> tuple[str, str]:
    """A file name and its text."""
    identifier = f"2026-01-01T00-00-00.{number:03d}Z_pid1_{number:08x}"
    return f"{identifier}.md", TEXT % (identifier, f"t{number}")


@pytest.mark.parametrize("there_before", [pytest.param(True, marks=LONG), False])
def test_what_is_still_being_written_is_waited_for_and_then_taken_at_once(desk: Desk, there_before: bool) -> None:
    new = Paths(desk.root, "coder").new
    open_files = []

    def begin() -> None:
        for number, share in ((1, 0.3), (2, 0.9)):
            name, text = message(number)
            file = (new / name).open("w")
            file.write(text[: int(len(text) * share)])
            file.flush()
            open_files.append((file, text[int(len(text) * share) :]))

    if there_before:
        begin()
    with desk.watching():
        until(Paths(desk.root, "coder").lock.exists, "the watcher")
        if not there_before:
            begin()
        # Ordinary mail that came later shows that the half ones were looked at, and passed over.
        for text in ("whole", "another"):
            desk.send(text, thread=text)
            until(lambda: asked(desk)[-1:] == [text], "the whole one")  # noqa: B023 - it is over before the next
        assert asked(desk) == ["whole", "another"]
        for file, rest in open_files:
            file.write(rest)
            file.close()
        until(lambda: asked(desk).count("delete it all") == 2, "the rest", patience=STILL_SECONDS * 5)
    assert desk.log(EventName.MESSAGE_UNREADABLE) == []


@pytest.fixture
def arriving(tmp_path: Path) -> Iterator[tuple[Arriving, Ticks, Path]]:
    known, ticks, path = tmp_path / "known", Ticks(), tmp_path / "a.md"
    known.write_text("x")
    yield Arriving(known, ticks), ticks, path
    module._kinds.clear()


def ask(found: Arriving, path: Path, *, renamed: bool = False) -> bool:
    found.look_anew()
    return found.is_whole(str(path), path.lstat(), renamed=renamed)


def test_a_writer_that_never_closes_does_not_hold_a_message_for_ever(arriving: tuple[Arriving, Ticks, Path]) -> None:
    found, ticks, path = arriving
    with path.open("w") as file:
        file.write("half")
        file.flush()
        assert not ask(found, path)
        ticks.now += OPEN_SECONDS / 2
        assert not ask(found, path)
        file.write(" and more")
        file.flush()
        assert not ask(found, path)
        ticks.now += OPEN_SECONDS - 1
        assert not ask(found, path)
        assert found.next_look == pytest.approx(1.0)
        ticks.now += 1
        assert ask(found, path)
        assert found.next_look is None
    assert ask(found, path)


def test_where_the_system_cannot_tell_a_file_has_to_stand_still(arriving: tuple[Arriving, Ticks, Path]) -> None:
    found, ticks, path = arriving
    path.write_text("from another machine")
    os.utime(path, (1, 1))
    module._kinds[path.lstat().st_dev] = True
    assert not ask(found, path)
    assert ask(found, path, renamed=True)
    ticks.now += STILL_SECONDS - 0.1
    path.write_text("from another machine, and longer")
    assert not ask(found, path)
    ticks.now += STILL_SECONDS - 0.1
    assert not ask(found, path)
    ticks.now += 0.2
    assert ask(found, path)


def test_an_empty_file_may_be_one_that_is_only_begun(arriving: tuple[Arriving, Ticks, Path]) -> None:
    found, ticks, path = arriving
    path.touch()
    assert not ask(found, path)
    path.write_text("whole")
    assert ask(found, path)
    path.write_text("")
    assert not ask(found, path)
    ticks.now += STILL_SECONDS
    assert ask(found, path)


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "virtiofs", "9p", "cifs"])
def test_file_systems_of_several_machines(kind: str) -> None:
    assert re.match(module._ELSEWHERE, kind)


def test_the_file_system_here_is_known_by_its_name(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    kind = module._kind_of(Path("/proc").stat().st_dev)
    assert kind == "proc"
    assert kind in mounts


def test_to_ask_disturbs_no_writer_and_no_writer_us(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.touch()
    opens = "import sys\nwhile True:\n    with open(sys.argv[1], 'a') as f: f.write('x')"
    with subprocess.Popen([sys.executable, "-c", opens, str(path)]) as writer:
        try:
            until(lambda: path.stat().st_size, "the writer")
            found = {writer_of(path) for _ in range(1000)}

            def both() -> bool:
                found.add(writer_of(path))
                return found == {Writer.NONE, Writer.SOME}

            until(both, "both answers")
            assert writer.poll() is None
        finally:
            writer.kill()


def test_what_another_reader_moved_to_cur_is_counted_where_people_look_and_is_not_stuck(desk: Desk) -> None:
    ids = [desk.send(f"number {number}", thread=f"t{number}") for number in range(4)]
    paths = Paths(desk.root, "coder")
    # With a mail program's flags, and without.
    (paths.new / f"{ids[0]}.md").rename(paths.cur / f"{ids[0]}.md:2,S")
    (paths.new / f"{ids[1]}.md").rename(paths.cur / f"{ids[1]}.md")
    (paths.new / f"{ids[2]}.md").rename(paths.new / "a name of its own.md")
    assert desk.log(EventName.MESSAGE_STUCK) == []
    for waiting in (2, 0):
        shown = type_in(desk.workdir, "status", "--json").json
        assert (shown["mailbox"]["elsewhere"], shown["mailbox"]["waiting"], shown["stuck"]) == (2, waiting, [])
        desk.once()
    assert sorted(asked(desk)) == ["number 2", "number 3"]
    assert "2 in cur that another reader took" in type_in(desk.workdir, "status").out
    # The way back that the documents name.
    (paths.cur / f"{ids[0]}.md:2,S").rename(paths.new / f"{ids[0]}.md")
    desk.once()
    assert "number 0" in asked(desk)
    assert type_in(desk.workdir, "status", "--json").json["mailbox"]["elsewhere"] == 1


def test_what_is_settled_in_cur_is_never_counted_as_taken_whatever_its_id_and_name(desk: Desk) -> None:
    odd = ["tab\tbed", "two words", "zwei W\u00f6rter", "x" * 200]
    paths = Paths(desk.root, "coder")
    for number, name in enumerate(odd):
        (paths.new / ".part").write_text(TEXT % (json.dumps(name)[1:-1], f"t{number}"))
        (paths.new / ".part").rename(paths.new / f"{name}.md")
    desk.send("plain")
    desk.once()
    assert len(asked(desk)) == len(odd) + 1

    def taken() -> int:
        return int(type_in(desk.workdir, "status", "--json").json["mailbox"]["elsewhere"])

    assert taken() == 0
    for name in ("never ours.md", "nor this.md:2,S", "tab\tbed.md.md", "no message.eml"):
        (paths.cur / name).write_bytes(b"x")
    assert taken() == 3
    for file in list(paths.cur.glob("*.md")):
        file.rename(f"{file}:2,RS")
    assert taken() == 3


def test_a_person_does_not_take_half_a_message_either(desk: Desk) -> None:
    paths = Paths(desk.root, "user")
    name, text = message(1)
    with (paths.new / name).open("w") as file:
        file.write(text[:-5])
        file.flush()
        assert "delete" not in type_in(desk.workdir, "mail", "drain", "--as", "user").out
        file.write(text[-5:])
    assert "delete it all" in type_in(desk.workdir, "mail", "drain", "--as", "user").out
