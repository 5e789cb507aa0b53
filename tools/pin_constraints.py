"""Pins what is installed: writes constraints.txt and its copy for uv in pyproject.toml.

Run it with the Python of an environment that was just brought up to date. Only what the project needs is pinned (its
dependencies, its dev group, its build requirements, and all that these need), not whatever else is installed there.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import tomlkit
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parent.parent
HEADER = "# Exact versions for ./run, and for uv by way of pyproject.toml. Written by tools/pin_constraints.py.\n"

# An editable build asks for it in an environment of its own, where it cannot be looked up.
BUILD_ONLY = {"editables": "0.6"}


def closure(words: Iterable[str]) -> dict[str, str]:
    """Name and installed version of everything that the requirements need here, directly or not.

    Raises PackageNotFoundError for one that is not installed.
    """
    waiting = [(Requirement(word), "") for word in words]
    seen: set[tuple[str, str]] = set()
    pins: dict[str, str] = {}
    while waiting:
        requirement, asked_as = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": asked_as}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            distribution = metadata.distribution(name)
            pins[name] = distribution.version
            waiting += [(Requirement(word), extra) for word in distribution.requires or ()]
    return pins


def main() -> None:
    path = PROJECT / "pyproject.toml"
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    plain = document.unwrap()
    # The dev group asks for the project itself, with its extras.
    words = plain["dependency-groups"]["dev"] + plain["build-system"]["requires"]
    found = {**closure(words), **BUILD_ONLY}
    pins = [f"{name}=={version}" for name, version in sorted(found.items()) if name != plain["project"]["name"]]

    (PROJECT / "constraints.txt").write_text(HEADER + "\n".join(pins) + "\n", encoding="utf-8")
    copied = tomlkit.array()
    copied.extend(pins)
    document["tool"]["uv"]["constraint-dependencies"] = copied.multiline(multiline=True)
    path.write_text(tomlkit.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main()
