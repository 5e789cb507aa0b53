"""What `./run mutate` changes in a module, and when it is red."""

from __future__ import annotations

from pathlib import Path

from tests.mutation.faults import faults
from tests.mutation.points import is_python, mutants
from tests.mutation.reaching import Reach, function_of
from tests.mutation.scope import NAMED, SOURCE, Stage, rest, scope_of
from tests.mutation.verdict import Fate, as_toml, judge, listed, rates

PROJECT = Path(__file__).parents[2]

MODULE = '''
"""What it is for."""

from elsewhere import call

MOST = 6


class Struct(frozen=True):
    """Its words."""

    size: int = 3

    def first(self, limit: float | None = None) -> str:
        assert limit != 5
        if self.size:
            call(self, keyword=limit)
        if (
            self.size > 4
            and not limit
        ):
            raise ValueError("too much")
        return "some" if limit else "none"
'''


def names(source: str) -> list[str]:
    return [one.name for one in mutants(source)]


def test_each_kind_of_decision_is_changed_once_and_no_declaration() -> None:
    assert names(MODULE) == [
        "module: MOST = 6 => MOST = None",
        "module: MOST = 6 => MOST = 7",
        "Struct: size: int = 3 => size: int = None",
        "Struct: size: int = 3 => size: int = 4",
        "Struct.first: if self.size: => if not (self.size):",
        "Struct.first: call(self, keyword=limit) => pass",
        "Struct.first: call(self, keyword=limit) => call(None, keyword=limit)",
        "Struct.first: call(self, keyword=limit) => call(self, keyword=None)",
        "Struct.first: call(self, keyword=limit) => call(self, )",
        "Struct.first: self.size > 4 => self.size > 4 or not limit",
        "Struct.first: self.size > 4 => self.size >= 4",
        "Struct.first: self.size > 4 => self.size > 5",
        "Struct.first: and not limit => and limit",
        'Struct.first: raise ValueError("too much") => pass',
        'Struct.first: raise ValueError("too much") => raise ValueError(None)',
        'Struct.first: raise ValueError("too much") => raise ValueError("XXtoo muchXX")',
        'Struct.first: return "some" if limit else "none" => return None',
        'Struct.first: return "some" if limit else "none" => return "some" if (limit) and False else "none"',
        'Struct.first: return "some" if limit else "none" => return "some" if (limit) or True else "none"',
        'Struct.first: return "some" if limit else "none" => return "XXsomeXX" if limit else "none"',
        'Struct.first: return "some" if limit else "none" => return "some" if limit else "XXnoneXX"',
    ]


def test_a_mutant_is_the_whole_module_with_one_place_changed() -> None:
    for one in mutants(MODULE):
        assert is_python(one)
        rows = [row for row in one.text.splitlines() if row not in MODULE.splitlines()]
        assert len(rows) <= 1, one.name
        assert MODULE.splitlines()[: one.line - 1] == one.text.splitlines()[: one.line - 1]


STEPS = """
def settle(one, *, kinds=(Kind.A, Kind.B)):
    if one.over:
        return
    made = one.make()
    write(made)
    one.state = made
    tell(one)
    with one.lock:
        try:
            go(x for x in made if x.due and not x.held)
        except OSError:
            one.undo()
"""


def test_larger_faults_are_made_of_steps_guards_locks_conditions_and_failures() -> None:
    found = faults(STEPS)
    assert [one.name.removeprefix("settle: ") for one in found] == [
        "without Kind.A: (Kind.A, Kind.B)",
        "without Kind.B: (Kind.A, Kind.B)",
        "no guard: if one.over: return",
        "in the other order: write(made)",
        "in the other order: one.state = made",
        "in the other order: tell(one)",
        "not within: with one.lock: try: go(x for x in made if x.due and not x.held) except OSError: ",
        "the first alone: made",
        "not sifted: x.due and not x.held",
        "not asked x.due: x.due and not x.held",
        "not asked not x.held: x.due and not x.held",
        "passed on: one.undo()",
        "swallowed: one.undo()",
    ]
    texts = {one.name.removeprefix("settle: "): one.text for one in found if is_python(one)}
    assert len(texts) == len(found)
    assert "    one.state = made\n    write(made)\n" in texts["in the other order: write(made)"]
    assert "    pass\n    made = one.make()" in texts["no guard: if one.over: return"]
    [without_lock] = [text for name, text in texts.items() if name.startswith("not within")]
    assert "    if True:\n        try:\n" in without_lock


def test_a_word_to_another_is_left_out() -> None:
    source = "def f(a):\n    go(a, at=a.now,\n        **a.rest)\n    a.end(why=a)\n"
    made = {one.name.removeprefix("f: "): one.text for one in faults(source) if "not said" in one.name}
    assert [*made] == [
        "not said at: go(a, at=a.now, **a.rest)",
        "not said None: go(a, at=a.now, **a.rest)",
        "not said why: a.end(why=a)",
    ]
    assert "    go(a, **a.rest)\n" in made["not said at: go(a, at=a.now, **a.rest)"]
    assert "    a.end()\n" in made["not said why: a.end(why=a)"]


def test_names_given_one_after_the_other_have_no_order() -> None:
    kept = "class A:\n    def __init__(self, a):\n        self.a = a.b()\n        self.c = a.d()\n"
    assert faults(kept + "\ndef f(a):\n    a.b = 1\n    a.c = a\n") == []


def test_the_same_change_in_two_places_has_two_names_whatever_stands_above() -> None:
    twice = "def f(a):\n    if a:\n        go(a)\n    go(a)\n"
    assert names(twice) == names("import os\n\n\n" + twice)
    assert "f: go(a) => pass" in names(twice)
    assert "f: go(a) => pass #2" in names(twice)


LIVES = Fate("watch/rules.py", "f: 1 => 2", 3)
DIES = Fate("watch/rules.py", "f: 2 => 3", 4, Stage.UNIT, "tests/unit/test_x.py::test_y")
THERE = {"watch/rules.py": [LIVES.name, DIES.name]}


def test_a_survivor_that_is_not_listed_is_red_and_so_is_one_without_a_reason() -> None:
    assert judge([LIVES, DIES], {}, THERE).unlisted == ("watch/rules.py:3 f: 1 => 2",)
    assert judge([LIVES, DIES], {"watch/rules.py": {LIVES.name: " "}}, THERE).is_red
    assert not judge([LIVES, DIES], {"watch/rules.py": {LIVES.name: "the same"}}, THERE).is_red


def test_a_listed_one_that_dies_is_red_and_so_is_one_that_is_gone() -> None:
    known = {"watch/rules.py": {LIVES.name: "the same", DIES.name: "once the same", "f: 3 => 4": "the line is gone"}}
    verdict = judge([LIVES, DIES], known, THERE)
    assert verdict.died == ("watch/rules.py:4 f: 2 => 3 (unit: tests/unit/test_x.py::test_y)",)
    assert verdict.gone == ("watch/rules.py f: 3 => 4",)
    assert verdict.is_red
    # Of a module that was not looked at nothing is known.
    assert not judge([], known, {}).is_red


def test_the_rate_of_the_tests_leaves_out_what_no_test_had_to_find() -> None:
    refused = Fate("watch/rules.py", "f: 3 => 4", 5, Stage.TYPES, "error: ...")
    assert rates([LIVES, DIES, refused]).splitlines()[1].split() == [
        *("watch/rules.py", "3", "1", "1", "1"),
        *("66.7", "%", "50.0", "%"),
    ]


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    reasons = {"watch/rules.py": {'f: return "a\\n" => return None #2': "nobody reads it", "f: 1 => 2": 'it is "so"'}}
    (tmp_path / "survivors.toml").write_text(as_toml(reasons))
    assert listed(tmp_path / "survivors.toml") == reasons


def test_every_listed_survivor_has_a_reason_and_a_module_that_is_to_be_killed_whole() -> None:
    for module, reasons in listed().items():
        assert module in NAMED
        assert [name for name, reason in reasons.items() if len(reason.split()) < 2] == []


def test_each_module_and_its_tests_are_there() -> None:
    for module in (*NAMED, *rest(PROJECT)):
        scope = scope_of(module)
        assert scope is not None
        files = [name for stage in Stage for name in scope.tests(stage)]
        assert files, module
        assert [name for name in (str(SOURCE / module), *files) if not (PROJECT / name).is_file()] == []


def test_of_the_tests_those_look_that_come_to_the_statement_the_cheapest_first() -> None:
    found = Reach({"cheap": (16,), "other": (23,), "dear": (16, 19, 23)}, {"cheap": 0.1, "other": 0.2, "dear": 3.0})
    line = {text: number for number, text in enumerate(MODULE.splitlines(), 1)}
    assert found.to(MODULE, line['        return "some" if limit else "none"']) == ["other", "dear"]
    # The condition begins two lines above.
    assert found.to(MODULE, line["            and not limit"]) == ["dear"]
    assert found.to(MODULE, line["MOST = 6"]) == ["cheap", "other", "dear"]
    assert found.within(["cheap", "other", "dear"], 1.0) == ["cheap", "other"]
    assert found.within(["dear", "cheap"], 1.0) == ["dear"]


def test_what_a_function_does_is_planted_and_what_a_class_is_made_of_is_not() -> None:
    line = {text.strip(): number for number, text in enumerate(MODULE.splitlines(), 1)}
    assert function_of(MODULE, line["and not limit"]) == "Struct.first"
    assert function_of(MODULE, line["def first(self, limit: float | None = None) -> str:"]) == ""
    assert function_of(MODULE, line["size: int = 3"]) == ""
