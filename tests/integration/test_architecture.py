"""docs/architecture.md against the code: the rooms, the way of one mail, the sizes, the circles."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import grimp
from tests.desk import Desk

from agent_mailer.events import EventName, LogRecord
from agent_mailer.mailbox.maildir.adapter import MaildirMailbox
from agent_mailer.mailbox.maildir.layout import Paths
from agent_mailer.mailbox.port import Action, Delivered, Draft, Outgoing
from agent_mailer.watch.watcher import Watcher

PROJECT = Path(__file__).parents[2]
SOURCE = PROJECT / "src" / "agent_mailer"
PAGE = (PROJECT / "docs" / "architecture.md").read_text("utf-8")

MOST_OTHERS = 30
MOST_CHANGES = 70
LARGEST = 400
SMALLEST = 40

_FLOOR = PAGE.partition("the ground floor:")[2].partition("└")[0].splitlines()
GROUND_FLOOR = frozenset(word for line in _FLOOR for word in line.strip(" │").partition("│")[0].split())
STEPS = tuple(
    path.removesuffix(".py").replace("/", ".") for path in re.findall(r"^\| [a-z]+ \| `([a-z_/]+\.py)` \|", PAGE, re.M)
)
FORCED = {"broker.migrations.env"}
"""Alembic looks for it by name."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield ".".join(path.relative_to(SOURCE).with_suffix("").parts), path


def room_of(module: str) -> str:
    return module.partition(".")[0]


def test_the_page_names_every_room_and_no_other() -> None:
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert set(re.findall(r"^\| `([a-z_]+)/` \|", PAGE, re.M)) == rooms
    assert {path.stem for path in SOURCE.glob("*.py")} >= GROUND_FLOOR
    for room in rooms:
        assert (SOURCE / room / "__init__.py").read_text("utf-8").startswith('"""'), f"{room} does not say what it is"


def test_one_mail_goes_the_way_that_the_page_tells(tmp_path: Path) -> None:
    entered = one_mail(Desk(tmp_path))
    first = list(dict.fromkeys(entered))
    assert [module for module in first if module in STEPS] == list(STEPS)
    others = [module for module in first if module not in STEPS]
    assert len(others) <= MOST_OTHERS, f"{len(others)} other modules: {others}"
    changes = changes_of_room(entered)
    assert changes <= MOST_CHANGES, f"{changes} changes of room"


BESIDE = "watch.trees"
"""Whatever anybody makes in a folder above ours stirs it: here the folder of all tests."""

REST = 0.5
"""Seconds in which a watcher that is at rest calls nothing."""


def one_mail(desk: Desk) -> list[str]:
    """The modules whose functions are called, call by call, from a mail's delivery until its turn is settled."""
    entered: list[str] = []
    place = desk.place()
    lock = place.lock()
    lock.acquire()
    source = f"{SOURCE}/"

    def called(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(source):
            module = name.removeprefix(source).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            if room_of(module) not in GROUND_FLOOR and module != BESIDE:
                entered.append(module)

    async def story() -> None:
        settled = asyncio.Event()

        def hear(record: LogRecord) -> None:
            if record.event is EventName.TURN_SETTLED:
                sys.setprofile(None)
                settled.set()

        place.log.listen(hear)
        room = place.room(lock)
        watcher = Watcher(room)
        watching = asyncio.create_task(watcher.run())
        # It has looked once, and waits; what its own start has stirred is heard by then.
        while not Paths(desk.root, "coder").lock.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        sys.setprofile(called)
        seen = -1
        while seen != len(entered):
            seen = len(entered)
            await asyncio.sleep(REST)
        sys.setprofile(None)
        entered.clear()
        try:
            await send(desk)
            sys.setprofile(called)
            await asyncio.wait_for(settled.wait(), 60)
        finally:
            sys.setprofile(None)
            watcher.stop(0.0)
            await watching

    try:
        place.prepare()
        asyncio.run(story())
    finally:
        lock.release()
        desk.end_turns()
    return entered


async def send(desk: Desk) -> None:
    mailbox = MaildirMailbox(desk.disk, desk.root, "user")
    [item] = mailbox.compose(Draft("k", Action.SEND, time.time(), to=("coder",), subject="s", body="b"), None, "test")  # type: ignore[misc]
    assert isinstance(item, Outgoing)
    assert await mailbox.deliver(item) == Delivered()


QUIET = (["process", "watch"], ["process", "watch", "turn_tools", "watch"])
"""The ways of a look that finds nothing new."""


def changes_of_room(entered: list[str]) -> int:
    """A turn that takes longer is looked at more often: looks that are alike, one after the other, count once."""
    rooms = [room_of(module) for module in entered]
    way = [room for number, room in enumerate(rooms) if number == 0 or room != rooms[number - 1]]
    for quiet in QUIET:
        number, long = 0, len(quiet)
        while number + 2 * long <= len(way):
            if way[number : number + long] == quiet == way[number + long : number + 2 * long]:
                del way[number : number + long]
            else:
                number += 1
    return len(way) - 1


def test_modules_are_neither_large_nor_crumbs() -> None:
    sizes = {module: len(path.read_text("utf-8").splitlines()) for module, path in modules()}
    assert {module: size for module, size in sizes.items() if size >= LARGEST} == {}
    crumbs = {
        module: size
        for module, size in sizes.items()
        if size < SMALLEST
        and room_of(module) not in (*GROUND_FLOOR, "cli")
        and module.rpartition(".")[2] not in ("__init__", "__main__", "port", "tables")
        and module not in FORCED
        # A version of the database is as large as what it changes.
        and not module.startswith("broker.migrations.v")
    }
    assert crumbs == {}


def test_no_two_modules_import_each_other() -> None:
    graph = grimp.build_graph("agent_mailer", cache_dir=None)
    assert circles({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """What imports itself by whatever detour: a set a circle. A package's `__init__` is not what lies in it."""
    left = {module: set(found) & set(imports) for module, found in imports.items()}
    # Whoever imports nothing that is left, or is imported by nothing that is left, is in no circle.
    while loose := {m for m, found in left.items() if not found} | set(left) - set().union(*left.values(), set()):
        left = {module: found - loose for module, found in left.items() if module not in loose}
    found: list[set[str]] = []
    while left:
        start = min(left)
        reached, back = _reach(start, left), {m for m in left if start in _reach(m, left)}
        circle = (reached & back) | ({start} if start in reached else set())
        if circle:
            found.append(circle)
        left = {m: others - circle - {start} for m, others in left.items() if m not in circle | {start}}
    return found


def _reach(start: str, imports: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    todo = [start]
    while todo:
        new = imports[todo.pop()] - reached
        reached |= new
        todo += new
    return reached
