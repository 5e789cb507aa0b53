"""constraints.txt pins all that the project asks for, and nothing that contradicts it."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())
LINES = [line for line in (PROJECT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = dict(line.split("==") for line in LINES)


def test_each_line_is_a_name_and_an_exact_version() -> None:
    odd = [line for line in LINES if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)]
    assert not odd
    assert len(PINS) == len(LINES)


def test_every_dependency_is_pinned_within_its_range() -> None:
    asked = PYPROJECT["project"]["dependencies"] + PYPROJECT["build-system"]["requires"]
    asked += PYPROJECT["dependency-groups"]["dev"]
    asked += [word for extra in PYPROJECT["project"].get("optional-dependencies", {}).values() for word in extra]
    assert not [word for word in asked if complaint(Requirement(word))]


def test_what_the_pinned_ones_need_is_pinned_too() -> None:
    complaints = []
    for name, version in PINS.items():
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if installed.version != version:
            continue
        needed = [Requirement(word) for word in installed.requires or ()]
        complaints += [f"{name} needs {need}" for need in needed if applies(need) and complaint(need)]
    assert not complaints


def test_uv_and_pip_pin_the_same() -> None:
    assert PYPROJECT["tool"]["uv"]["constraint-dependencies"] == LINES


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def complaint(requirement: Requirement) -> bool:
    if requirement.name == PYPROJECT["project"]["name"]:
        return False
    version = PINS.get(canonicalize_name(requirement.name))
    return version is None or not requirement.specifier.contains(version, prereleases=True)
