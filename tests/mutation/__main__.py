"""`./run mutate`: changes one thing of the program after the other, and looks whether anything notices."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path

import msgspec
from tests.mutation.bench import Bench
from tests.mutation.faults import faults
from tests.mutation.points import Mutant, is_python, mutants
from tests.mutation.reaching import Reach, function_of
from tests.mutation.scope import NAMED, SOURCE, Scope, Stage, every_test, rest, scope_of
from tests.mutation.verdict import Fate, judge, listed, rates

PROJECT = Path(__file__).parents[2]
RESULTS = PROJECT / "build" / "mutants"
FAULTS = PROJECT / "build" / "faults"
FASTEST_FIRST = (Stage.TYPES, Stage.UNIT, Stage.INTEGRATION, Stage.CRASH)


def try_all(
    bench: Bench,
    module: str,
    source: str,
    chosen: Sequence[Mutant],
    stages: Sequence[Stage],
    seconds: float = inf,
    beside: Sequence[str] = (),
    *,
    every: bool = False,
) -> Iterator[Fate]:
    """Each stage with the mutants that those before have let live; `seconds` of tests look at each. `beside`: modules
    of the same tests that come next. `every`: by all tests there are, those that fail unchanged left out.

    Raises RuntimeError where a stage is red unchanged.
    """
    scope = scope_of(module) or Scope((), ())
    looks = [(stage, every_test(PROJECT, module, stage) if every else scope.tests(stage)) for stage in stages]
    ways = [(stage, tests) for stage, tests in looks if stage is Stage.TYPES or tests]
    left = list(chosen)
    for stage, tests in ways:
        if not left:
            return
        bench.write(module, source)
        reach = bench.prepare(module, tests, beside, some=every) if tests else None
        if reach is None and (said := bench.types_refuse()):
            raise RuntimeError(f"mypy refuses what was not changed:\n{said}")
        survivors = []
        kills: Counter[str] = Counter()
        for mutant in left:
            bench.write(module, mutant.text)
            killer = _refused(bench) if reach is None else _killer(bench, mutant, source, reach, kills, seconds)
            if killer:
                yield Fate(module, mutant.name, mutant.line, stage, killer)
            elif stage is ways[-1][0]:
                yield Fate(module, mutant.name, mutant.line)
            else:
                survivors.append(mutant)
        bench.write(module, source)
        left = survivors


def _refused(bench: Bench) -> str:
    return bench.types_refuse().partition("\n")[0]


def _killer(bench: Bench, mutant: Mutant, source: str, reach: Reach, kills: Counter[str], seconds: float) -> str:
    """The test that fails now, or that there was no end. What fails once in two is no proof, and is tried again.

    Only tests that come to the line are asked: those that have killed most first, then the cheapest.
    """
    tests = reach.within(sorted(reach.to(source, mutant.line), key=lambda name: -kills[name]), seconds)
    took = reach.cost(tests)
    function = function_of(source, mutant.line)
    if not tests or (said := bench.run(tests, took, function)).code == 0:
        return ""
    killer = bench.killer()
    if said.code is None or not killer:
        return "no end" if said.code is None else "nothing can be imported"
    if "/unit/" not in killer and bench.run([killer], took, function).code == 0:
        return "" if bench.run(tests, took, function).code == 0 else killer
    kills[killer] += 1
    return killer


def main(words: Sequence[str]) -> int:
    asked = _asked(words)
    # What was begun is ended, and what is known is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lot = random.Random(asked.seed)
    modules = asked.modules or (rest(PROJECT) if asked.rest else list(NAMED))
    known = [name for name in modules if (PROJECT / SOURCE / name).is_file() and (asked.faults or scope_of(name))]
    if unknown := [name for name in modules if name not in known]:
        print(f"no module with tests in tests/mutation/scope.py: {', '.join(unknown)} (as watch/rules.py)")
        return 2
    stages = [stage for stage in FASTEST_FIRST if stage in asked.stages]
    sources = {module: (PROJECT / SOURCE / module).read_text(encoding="utf-8") for module in modules}
    find, results = (faults, FAULTS) if asked.faults else (mutants, RESULTS)
    every = {module: find(source) for module, source in sources.items()}
    chosen = [(module, mutant) for module, those in every.items() for mutant in those if asked.such in mutant.name]
    # First, so that `--left` and the same seed go on with the same ones.
    if asked.sample:
        chosen = lot.sample(chosen, min(asked.sample, len(chosen)))
    if asked.left:
        dead = {
            (one.module, one.name) for module in modules for one in _results(results, module) if one.stage is not None
        }
        chosen = [(module, mutant) for module, mutant in chosen if (module, mutant.name) not in dead]
    print(f"{len(chosen)} of {sum(map(len, every.values()))} mutants, seed {asked.seed}", flush=True)
    results.mkdir(parents=True, exist_ok=True)
    fates: list[Fate] = []
    try:
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder, Bench(PROJECT, Path(folder).resolve()) as bench:
            for module in modules:
                those = [mutant for name, mutant in chosen if name == module and is_python(mutant)]
                beside = [name for name in dict(chosen) if asked.faults or scope_of(name) == scope_of(module)]
                begun = time.monotonic()
                try:
                    tried = try_all(
                        bench, module, sources[module], those, stages, asked.seconds, beside, every=asked.faults
                    )
                    for fate in tried if those else ():
                        fates.append(fate)
                        if len(fates) % 100 == 0:
                            print(f"{module}: {len(fates)} are told", flush=True)
                        if fate.stage is None:
                            print(f"lives: {module}:{fate.line} {fate.name}", flush=True)
                finally:
                    _keep(results, module, [fate for fate in fates if fate.module == module])
                if those:
                    print(f"{module}: {len(those)} in {time.monotonic() - begun:.0f} s", flush=True)
    except KeyboardInterrupt:
        print("ended by hand; --left goes on with what is not known yet")
        return 130
    except RuntimeError as error:
        print(f"mutate: {error}")
        return 2
    print(rates(fates))
    # Of the rest the rate is told, and nobody has to say why one lives.
    if asked.faults:
        return 0
    named = [fate for fate in fates if fate.module in NAMED]
    verdict = judge(named, listed(), {module: [one.name for one in those] for module, those in every.items()})
    for what, told in (
        ("lives, and tests/survivors.toml does not say why", verdict.unlisted),
        ("is listed in tests/survivors.toml, and dies", verdict.died),
        ("is listed in tests/survivors.toml, and is no mutant any more", verdict.gone),
    ):
        for one in told:
            print(f"{what}: {one}")
    return int(verdict.is_red)


def _asked(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run mutate", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="as watch/rules.py; else all that are to be whole")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of their mutants, by lot")
    parser.add_argument(
        "--faults",
        action="store_true",
        help="larger ones, as a person makes them, by every test of a stage; their rate is told",
    )
    parser.add_argument("--such", default="", metavar="TEXT", help="those with that in their name: 'the first alone'")
    parser.add_argument("--rest", action="store_true", help="of the other modules: their rate is told, and no red")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("MUTANTS_SEED", "0")) or random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=inf, metavar="N", help="of tests, by stage, for each of them")
    parser.add_argument("--left", action="store_true", help="those of them that no earlier call has seen die")
    parser.add_argument(
        "--stages",
        nargs="+",
        type=Stage,
        choices=[*Stage],
        default=[Stage.TYPES, Stage.UNIT, Stage.INTEGRATION],
        help="what looks at them; the crash harness takes minutes a mutant: with --left",
    )
    return parser.parse_args(words)


def _file(folder: Path, module: str) -> Path:
    return folder / (module.replace("/", ".") + ".json")


def _results(folder: Path, module: str) -> list[Fate]:
    """What is known of it from earlier calls, each mutant by its last."""
    path = _file(folder, module)
    return msgspec.json.decode(path.read_bytes(), type=list[Fate]) if path.exists() else []


def _keep(folder: Path, module: str, fates: Sequence[Fate]) -> None:
    known = {one.name: one for one in _results(folder, module)} | {one.name: one for one in fates}
    _file(folder, module).write_bytes(msgspec.json.format(msgspec.json.encode([*known.values()]), indent=1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
