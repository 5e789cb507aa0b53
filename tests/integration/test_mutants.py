"""A handful of the mutants that `./run mutate` tries, by unit tests alone: red where one lives and is not listed, and
where a listed one dies. Both are planted, too.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.mutation.__main__ import try_all
from tests.mutation.bench import Bench
from tests.mutation.points import Mutant, is_python, mutants
from tests.mutation.scope import SOURCE, Stage
from tests.mutation.verdict import judge, listed

PROJECT = Path(__file__).parents[2]
HANDFUL = {"watch/rules.py": 5, "watch/deciding.py": 5}
"""By lot, and as many of those that are listed."""
SEED = int(os.environ.get("MUTANTS_SEED", "0")) or random.randrange(10**6)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(PROJECT, tmp_path_factory.mktemp("bench")) as one:
        yield one


@pytest.mark.parametrize("module", HANDFUL)
def test_of_some_mutants_none_lives_that_is_not_listed_and_no_listed_one_dies(module: str, bench: Bench) -> None:
    source = (PROJECT / SOURCE / module).read_text()
    known = listed()
    every = {one.name: one for one in mutants(source)}
    lot = random.Random(SEED)
    fresh = [one for one in lot.sample([*every.values()], 2 * HANDFUL[module]) if one.name not in known.get(module, {})]
    stale = [every[name] for name in known.get(module, {}) if name in every]
    chosen = [*fresh[: HANDFUL[module]], *lot.sample(stale, min(len(stale), HANDFUL[module] // 2))]
    lives = Mutant("planted: 1 => 1", 1, f"{source}\n# the same\n")
    dies = Mutant("planted: 1 => 2", 1, f"{source}\n1 / 0\n")
    told = {**known, module: {**known.get(module, {}), dies.name: "it is said to live"}}
    fates = {
        fate.name: fate
        for fate in try_all(bench, module, source, [*filter(is_python, chosen), lives, dies], [Stage.UNIT])
    }
    # The types are looked at where somebody needs to know: that takes long.
    live = [one for one in fresh if one.name in fates and fates[one.name].stage is None]
    fates |= {fate.name: fate for fate in try_all(bench, module, source, live, [Stage.TYPES])}
    verdict = judge(fates.values(), told, {module: [*every, dies.name]})
    assert verdict.gone == (), f"seed {SEED}"
    assert [one for one in verdict.unlisted if lives.name not in one] == [], f"seed {SEED}"
    assert [one for one in verdict.died if dies.name not in one] == [], f"seed {SEED}"
    assert len(verdict.unlisted) == len(verdict.died) == 1, "what is planted is found"


def test_a_test_that_cannot_be_imported_is_no_test_that_passes(bench: Bench) -> None:
    broken = bench.tree / "tests/unit/test_broken.py"
    broken.write_text("import nowhere_to_be_found\n\n\ndef test_it() -> None:\n    assert False\n")
    try:
        with pytest.raises(RuntimeError, match="nowhere_to_be_found"):
            bench.prepare("watch/rules.py", ["tests/unit/test_watch_retry.py", "tests/unit/test_broken.py"])
    finally:
        broken.unlink()


def test_a_test_that_is_only_named_otherwise_has_not_failed(bench: Bench) -> None:
    module, test = "watch/rules.py", "tests/unit/test_named_by_it.py"
    (bench.tree / test).write_text(
        "import pytest\nfrom agent_mailer.watch import rules\n\n\n"
        "@pytest.mark.parametrize('name', [rules.__doc__.split()[0]])\n"
        "def test_it(name: str) -> None:\n    assert name != 'Broken'\n"
    )
    source = (PROJECT / SOURCE / module).read_text()
    bench.write(module, source)
    try:
        [named] = bench.prepare(module, [test]).to(source, 1)
        for word, code in (("Other", 0), ("Broken", 1)):
            bench.write(module, source.replace('"""', f'"""{word} ', 1))
            assert bench.run([named], 1.0).code == code
    finally:
        bench.write(module, source)
        (bench.tree / test).unlink()


def test_where_every_test_is_long_none_looks_and_none_has_failed(bench: Bench) -> None:
    module, test = "watch/rules.py", "tests/unit/test_all_long.py"
    (bench.tree / test).write_text(
        "import pytest\n\npytestmark = pytest.mark.long\n\n\ndef test_it() -> None:\n    assert False\n"
    )
    source = (PROJECT / SOURCE / module).read_text()
    bench.write(module, source)
    try:
        assert bench.prepare(module, [test]).to(source, 1) == []
    finally:
        (bench.tree / test).unlink()
