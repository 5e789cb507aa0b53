"""What the public broker kept becomes ours, in one transaction that compares all of it before it is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from agent_mailer.broker.audit import Act, at_the_command_line, note
from agent_mailer.broker.data import Data, make_folders
from agent_mailer.broker.database import Executor
from agent_mailer.broker.fixed import write_each
from agent_mailer.broker.search.rows import note_words
from agent_mailer.broker.tables import messages, metadata, sent_counts, threads, trashed_messages, users
from agent_mailer.broker.takeover.comparing import Compared, compare
from agent_mailer.broker.takeover.pictures import put_pictures, remove
from agent_mailer.broker.takeover.source import SHAPE, Source, opened, portions
from agent_mailer.broker.takeover.translating import SHELVES, Loss, Rules, Translator
from agent_mailer.broker.threads.rows import Shelf
from agent_mailer.broker.upkeep.derived import derive
from agent_mailer.broker.users.rows import set_invite_required
from agent_mailer.errors import ConfigFault, MailerError
from agent_mailer.names import printable
from agent_mailer.progress import Step, Tell, counted, untold

MOST_TOLD = 10
_HARMLESS = (*SHELVES, "trashed_messages")
"""Rows of these that name what there is not say nothing."""
_APART = ("system_settings", *_HARMLESS)
"""Tables that are no tables of ours."""
_OF_ITS_OWN = "put it into a place of its own: --data DIR, or --database URL"


class Wanted(msgspec.Struct, frozen=True):
    """`leave_out`: rows that can be nothing here are left out; else nothing is taken. `look_only`: all is done, and
    nothing of it kept. `uploads`: where the pictures lie. `bound_keys` as in `translating.Rules`.
    """

    place: str
    uploads: Path | None
    leave_out: bool = False
    look_only: bool = False
    bound_keys: bool = True


class Taken(msgspec.Struct, frozen=True):
    """`losses`: rows and parts of rows; `missing`: pictures that are not there, or another's; `domain`: in which the
    addresses end, empty where there is none. `to_reset`: users whose password cannot be checked here.
    """

    tables: list[Compared]
    losses: list[Loss]
    missing: list[str]
    files: int
    domain: str
    to_reset: list[str]


class _LookedOnly(Exception):
    def __init__(self, taken: Taken) -> None:
        self.taken = taken


def take_over(data: Data, wanted: Wanted, tell: Tell = untold) -> Taken:
    """Bring all that is at `wanted.place` into the database at `data`, which is of this version, and may be served.

    Raises ConfigFault (it is no such database, knows more than this program, names what there is not, was taken over
    before, or is in conflict with what is here), MailerError (what stands here then would differ), and as the databases
    do. Then all is as it was before.
    """
    make_folders(data)
    with opened(wanted.place) as source:
        if source.beyond and not wanted.leave_out:
            raise ConfigFault(
                "source_newer",
                f"{source.name} has more than this program knows of: {', '.join(source.beyond[:8])}",
                "upgrade agent-mailer, or go without these: --leave-out",
            )
        put: list[Path] = []
        try:
            return asyncio.run(_in_one_transaction(data, source, wanted, put, tell))
        except _LookedOnly as looked:
            remove(put)
            return looked.taken
        except BaseException:
            remove(put)
            raise


async def _in_one_transaction(data: Data, source: Source, wanted: Wanted, put: list[Path], tell: Tell) -> Taken:
    database = Executor(data.database, writes=True, stores=False)
    try:
        return await database.run(lambda connection: _take(connection, data, source, wanted, put, tell))
    except IntegrityError as error:
        words = (str(error.orig).splitlines() or ["?"])[0]
        raise ConfigFault(
            "in_conflict", f"it cannot be taken over: {words}; nothing was changed", _OF_ITS_OWN
        ) from None
    finally:
        await database.close()


def _take(connection: Connection, data: Data, source: Source, wanted: Wanted, put: list[Path], tell: Tell) -> Taken:
    remove(put)
    empty = _require_no_conflict(connection, source)
    shelves, trashed = _put_away(source), dict(_pairs(source, "trashed_messages"))
    translator = Translator(Rules(empty, wanted.bound_keys, shelves, trashed))
    for name in SHAPE:
        if name not in _APART:
            _insert(connection, source, name, translator, tell)
    tell(Step("puts together what follows from the messages"))
    _finish(connection, translator)
    _note_idle(source, translator, shelves, trashed)
    if empty:
        for row in source.rows("system_settings"):
            if row["key"] == "invite_required":
                set_invite_required(connection, required=row["value"] not in ("0", "false", "False", ""))
    lost = [loss for loss in translator.losses if not loss.column and loss.table not in _HARMLESS]
    if lost and not wanted.leave_out:
        raise _broken(source, lost)
    compared = compare(connection, source, translator.losses, tell)
    if differing := [words for one in compared for words in one.differing]:
        raise MailerError(
            "differs",
            f"what would stand here is not what stands in {source.name}: {'; '.join(differing[:MOST_TOLD])};"
            " nothing was changed",
            "was it written to meanwhile? stop that broker, and try again",
        )
    tell(Step("copies pictures"))
    missing = put_pictures(connection, source, _uploads(wanted), data.uploads, put)
    many = sum(one.there for one in compared if one.table == "users")
    note(connection, at_the_command_line(), Act.IMPORTED, f"{many} users from {source.name}")
    domain = next((one for one, _ in translator.domains.most_common(1)), "")
    taken = Taken(compared, translator.losses, missing, len(put), domain, translator.to_reset)
    if wanted.look_only:
        raise _LookedOnly(taken)
    return taken


def _require_no_conflict(connection: Connection, source: Source) -> bool:
    """Whether there was nobody here. Raises ConfigFault."""
    known = {row[0]: row[1] for row in connection.execute(select(users.c.id, users.c.username))}
    names = set(known.values())
    for row in source.rows("users"):
        if row["id"] in known:
            raise ConfigFault(
                "taken_before",
                f"{printable(row['username'])} of {source.name} is here already: it was taken over before",
                "look when: agent-mailer broker audit",
            )
        if row["username"] in names:
            raise ConfigFault(
                "name_taken",
                f"there is another {printable(row['username'])} here than in {source.name}; nothing was changed",
                _OF_ITS_OWN,
            )
    return not known


def _pairs(source: Source, name: str) -> Iterator[tuple[str, str]]:
    """What is put away, and since when."""
    what, since = SHAPE[name]
    for row in source.rows(name):
        yield row[what], row[since]


def _put_away(source: Source) -> dict[str, tuple[Shelf, str]]:
    """What is in the trash is nowhere else."""
    return {thread_id: (shelf, since) for name, shelf in SHELVES.items() for thread_id, since in _pairs(source, name)}


def _insert(connection: Connection, source: Source, name: str, translator: Translator, tell: Tell) -> None:
    statement = insert(metadata.tables[name])
    for some in portions(counted(source.rows(name), f"takes over {name}", tell)):
        made = [row for row in (translator.row(name, old) for old in some) if row is not None]
        if not made:
            continue
        connection.execute(statement, made)
        if name == "messages":
            note_words(connection, made)


def _finish(connection: Connection, translator: Translator) -> None:
    """What follows from the messages, and what is put away of them."""
    parents = [{"message": one, "parent": parent} for one, parent in translator.parents()]
    if parents:
        where = messages.c.id == bindparam("message")
        write_each(connection, update(messages).where(where).values(parent_id=bindparam("parent")), parents)
    for some in portions(translator.in_trash):
        connection.execute(insert(trashed_messages), some)
    counts = [{"agent_id": key[0], "action": key[1], "many": many} for key, many in sorted(translator.sent.items())]
    if counts:
        connection.execute(insert(sent_counts), counts)
    derive(connection)
    put = (
        update(threads)
        .where(threads.c.user_id == bindparam("user"), threads.c.thread_id == bindparam("thread"))
        .values(shelf=bindparam("where_to"), shelved_at=bindparam("moment"))
    )
    rows = [
        {"user": user, "thread": thread, "where_to": shelf.value, "moment": since}
        for (user, thread), (shelf, since) in sorted(translator.shelved.items())
    ]
    if rows:
        write_each(connection, put, rows)


def _note_idle(
    source: Source, translator: Translator, shelves: dict[str, tuple[Shelf, str]], trashed: dict[str, str]
) -> None:
    """Rows that say where something is that there is not."""
    with_mail = {thread for _, thread in translator.shelved}
    for name, shelf in SHELVES.items():
        for thread_id, _ in _pairs(source, name):
            if thread_id not in with_mail:
                translator.note_lost(name, thread_id, "there is no mail in that thread")
            elif shelves[thread_id][0] is not shelf:
                translator.note_lost(name, thread_id, "it is in the trash")
    for message_id in sorted(set(trashed) - {row["message_id"] for row in translator.in_trash}):
        translator.note_lost("trashed_messages", message_id, "there is no such message")


def _broken(source: Source, lost: list[Loss]) -> ConfigFault:
    told = "; ".join(f"{one.table} {printable(one.key)}: {printable(one.why)}" for one in lost[:MOST_TOLD])
    more = f"; and {len(lost) - MOST_TOLD} more" if len(lost) > MOST_TOLD else ""
    return ConfigFault(
        "source_broken",
        f"{len(lost)} {'row' if len(lost) == 1 else 'rows'} of {source.name} can be nothing here: {told}{more};"
        " nothing was changed",
        "fix them there, or go without them: --leave-out",
    )


def _uploads(wanted: Wanted) -> Path | None:
    """Where that broker has them, unless it was told otherwise: beside its file."""
    if wanted.uploads is not None:
        return wanted.uploads
    return None if "://" in wanted.place else Path(wanted.place).expanduser().absolute().parent / "uploads"
