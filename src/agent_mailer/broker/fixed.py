"""Statements that are always the same, turned into SQL once: what a send runs costs more to prepare than to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import JSON, ClauseElement, Connection, Dialect
from sqlalchemy.exc import DBAPIError

KEPT = 2048
"""Texts of SQL: one for each statement, database, and length of its lists."""


class _Sql(NamedTuple):
    """`places`: the names in their order, where they have no names in the text; `constants`: what the statement names
    itself; `makers`: how values are written.
    """

    text: str
    places: tuple[str, ...] | None
    constants: dict[str, Any]
    makers: dict[str, Callable[[Any], Any]]

    def values(self, names: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as the driver takes them
        if self.constants:
            names = {**self.constants, **names}
        if self.places is None:
            return {**names, **{name: make(names[name]) for name, make in self.makers.items()}}
        if not self.makers:
            return tuple([names[place] for place in self.places])
        makers = self.makers
        return tuple([makers[place](names[place]) if place in makers else names[place] for place in self.places])


def rows_of(connection: Connection, statement: ClauseElement, names: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
    """What it finds, as the driver gives it: for columns of text and whole numbers. Lists among `names` are those of
    its IN; none is empty. Raises as the database does.
    """
    sizes: list[tuple[str, int]] = []
    flat: dict[str, Any] = {}
    for name, value in names.items():
        if isinstance(value, list):
            sizes.append((name, len(value)))
            flat.update((f"{name}_{number}", one) for number, one in enumerate(value, 1))
        else:
            flat[name] = value
    sql = _sql(statement, connection.dialect, tuple(sizes))
    if connection.dialect.name != "sqlite":
        return connection.exec_driver_sql(sql.text, sql.values(flat)).all()
    cursor = _cursor(connection)
    try:
        rows: list[Sequence[Any]] = cursor.execute(sql.text, sql.values(flat)).fetchall()
        return rows
    except connection.dialect.loaded_dbapi.Error as error:
        raise _told(connection, sql, error) from error
    finally:
        cursor.close()


def write_each(connection: Connection, statement: ClauseElement, rows: Sequence[Mapping[str, Any]]) -> None:
    """Run it for each of these, in their order. Raises as the database does."""
    sql = _sql(statement, connection.dialect, ())
    values = [sql.values(row) for row in rows]
    if connection.dialect.name != "sqlite":
        connection.exec_driver_sql(sql.text, values)
        return
    cursor = _cursor(connection)
    try:
        cursor.executemany(sql.text, values)
    except connection.dialect.loaded_dbapi.Error as error:
        raise _told(connection, sql, error) from error
    finally:
        cursor.close()


def _cursor(connection: Connection) -> Any:  # noqa: ANN401 - the driver's own
    assert connection.in_transaction()
    return connection.connection.cursor()


def _told(connection: Connection, sql: _Sql, error: Exception) -> BaseException:
    """As whoever asks SQLAlchemy is told."""
    base = connection.dialect.loaded_dbapi.Error
    return DBAPIError.instance(sql.text, None, error, base, dialect=connection.dialect)


@lru_cache(maxsize=KEPT)
def _sql(statement: ClauseElement, dialect: Dialect, sizes: tuple[tuple[str, int], ...]) -> _Sql:
    if sizes:
        statement = statement.params({name: [""] * size for name, size in sizes})
    compiled: Any = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    makers, constants = {}, {}
    for name, bind in compiled.binds.items():
        if bind.value is not None and not bind.expanding:
            constants[name] = bind.value
        maker = bind.type.dialect_impl(dialect).bind_processor(dialect)
        if maker is not None:
            makers[name] = _of_lists(maker) if isinstance(bind.type, JSON) else maker
    return _Sql(str(compiled), tuple(compiled.positiontup) if compiled.positional else None, constants, makers)


def _of_lists(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same, where most values are empty lists."""
    empty = make([])
    return lambda value: empty if value == [] else make(value)
