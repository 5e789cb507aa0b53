"""What became of mutants, and what tests/survivors.toml says of those that live."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec
from tests.mutation.scope import Stage

LISTED = Path(__file__).parents[1] / "survivors.toml"


class Fate(msgspec.Struct, frozen=True):
    """`stage` None: it lives. `killer`: the test that failed, or what mypy said."""

    module: str
    name: str
    line: int
    stage: Stage | None = None
    killer: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """By module and name. `unlisted` live and nobody says why; `died` are listed as living; `gone` are no mutants."""

    unlisted: tuple[str, ...] = ()
    died: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @property
    def is_red(self) -> bool:
        return bool(self.unlisted or self.died or self.gone)


def listed(path: Path = LISTED) -> dict[str, dict[str, str]]:
    """By module the reason of each survivor. Raises OSError and tomllib.TOMLDecodeError."""
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def judge(
    fates: Iterable[Fate], known: Mapping[str, Mapping[str, str]], there: Mapping[str, Collection[str]]
) -> Verdict:
    """`there`: the names of all mutants of each module that was looked at."""
    unlisted, died = [], []
    for fate in fates:
        reason = known.get(fate.module, {}).get(fate.name, "").strip()
        shown = f"{fate.module}:{fate.line} {fate.name}"
        if fate.stage is None and not reason:
            unlisted.append(shown)
        elif fate.stage is not None and reason:
            died.append(f"{shown} ({fate.stage}: {fate.killer})")
    gone = [
        f"{module} {name}" for module, names in there.items() for name in known.get(module, {}) if name not in names
    ]
    return Verdict(tuple(unlisted), tuple(died), tuple(gone))


def rates(fates: Iterable[Fate]) -> str:
    """A table by module. The rate of the tests leaves out what mypy refuses: no test had to look."""
    rows = [f"{'module':28} {'run':>5} {'types':>6} {'tests':>6} {'live':>5} {'killed':>7} {'by tests':>9}"]
    by_module: dict[str, list[Fate]] = {}
    for fate in fates:
        by_module.setdefault(fate.module, []).append(fate)
    for module, those in [*by_module.items(), ("all", [one for each in by_module.values() for one in each])]:
        live = sum(one.stage is None for one in those)
        types = sum(one.stage is Stage.TYPES for one in those)
        tests = len(those) - live - types
        killed, by_tests = (
            f"{100 * of / max(1, all_):.1f} %" for of, all_ in ((tests + types, len(those)), (tests, tests + live))
        )
        rows.append(f"{module:28} {len(those):5} {types:6} {tests:6} {live:5} {killed:>7} {by_tests:>9}")
    return "\n".join(rows)


def as_toml(reasons: Mapping[str, Mapping[str, str]]) -> str:
    """The file of survivors; JSON's strings are TOML's."""
    tables = []
    for module, those in sorted(reasons.items()):
        if those:
            rows = [f"{_text(name)} = {_text(reason)}" for name, reason in those.items()]
            tables.append("\n".join((f"[{_text(module)}]", *rows)))
    return "\n\n".join(tables) + "\n"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
