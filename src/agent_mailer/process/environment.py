"""The environment of what we start near an agent's files: none of them becomes a program of ours.

An agent writes in its workdir, and in its project. Whatever is started there and looks for programs, libraries or
modules would take one that the agent has put there, and would run it with our rights, not with the agent's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

_PLACES: Final = frozenset(
    (
        *("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT", "GCONV_PATH", "BASH_ENV", "ENV"),
        *("DYLD_LIBRARY_PATH", "DYLD_FRAMEWORK_PATH", "DYLD_INSERT_LIBRARIES"),
        *("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONSTARTUP", "PYTHONPYCACHEPREFIX"),
        *("PERL5LIB", "PERLLIB", "RUBYLIB", "GEM_HOME", "GEM_PATH", "NODE_PATH", "CLASSPATH"),
        *("GIT_EXEC_PATH", "GIT_TEMPLATE_DIR", "GIT_CONFIG", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"),
    )
)
"""Variables that name files or folders from which code is taken."""

_WORDS: Final = frozenset(
    ("NODE_OPTIONS", "PERL5OPT", "RUBYOPT", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "PYTHONBREAKPOINT")
)
"""Variables that are words of a command line, of which some load code."""

_GIT_MUST_NOT: Final = (
    *("core.fsmonitor=false", "core.hooksPath=/dev/null", "core.pager=cat", "core.sshCommand=false"),
    *("diff.external=", "credential.helper=", "core.askPass=", "gc.auto=0", "maintenance.auto=false"),
)
"""Every setting of a repository by which a command that only reads would start a program."""

_MOST_LINKS: Final = 40
"""So many in one path the system follows."""


def without_theirs(environ: Mapping[str, str], theirs: Sequence[Path]) -> dict[str, str]:
    """`environ` without what is relative, or lies below one of the folders `theirs`, where code is looked for.

    A relative place is one in the folder of whoever is started. What is left empty goes altogether: an empty entry
    means that folder, too.
    """
    roots = _roots(theirs)
    kept = dict(environ)
    for name in _PLACES & kept.keys():
        # The loader takes blanks, too, between libraries.
        text = kept[name].replace(" ", os.pathsep) if name == "LD_PRELOAD" else kept[name]
        places = [place for place in text.split(os.pathsep) if _is_elsewhere(place, roots)]
        if places:
            kept[name] = os.pathsep.join(places)
        else:
            del kept[name]
    for name in _WORDS & kept.keys():
        if not all(_loads_nothing_of(word, roots) for word in kept[name].split()):
            del kept[name]
    return kept


def find_tool(name: str, theirs: Sequence[Path] = (), environ: Mapping[str, str] = os.environ) -> str | None:
    """The absolute path of a program of the system's, looked for in PATH but where an agent may have put it."""
    return shutil.which(name, path=without_theirs(environ, theirs).get("PATH", os.defpath))


def git_call(program: str, words: Iterable[str], theirs: Sequence[Path]) -> tuple[list[str], dict[str, str]]:
    """argv and environment of a git command that reads: no program starts that the repository's settings name."""
    # What names another tree or index in our environment is not meant for this one.
    env = {name: value for name, value in without_theirs(os.environ, theirs).items() if not name.startswith("GIT_")}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat", "LC_ALL": "C"}
    settings = [part for setting in _GIT_MUST_NOT for part in ("-c", setting)]
    return [program, "--no-pager", *settings, *words], env


def _roots(theirs: Sequence[Path]) -> frozenset[str]:
    return frozenset(root for folder in theirs for root in (os.path.abspath(folder), os.path.realpath(folder)))  # noqa: PTH100


def _is_elsewhere(place: str, roots: frozenset[str]) -> bool:
    if not place.startswith("/"):
        return False
    # By its letters, too: so node shortens a path, and the system does not.
    named, real = os.path.normpath(place), os.path.realpath(place)
    below = tuple(f"{root.rstrip('/')}/" for root in roots)
    return roots.isdisjoint((named, real)) and not any(
        name.startswith(below) for name in (named, *(str(passed) for passed, _ in way_to(place)))
    )


def way_to(place: str) -> Iterator[tuple[Path, bool]]:
    """Each name that is passed on the way to an absolute path, in its real folder, and whether it is a link.

    Whoever can replace one leads it elsewhere. The last is what it is in the end. Beyond the links that the system
    follows a name counts as no link.
    """
    left = place.split("/")[::-1]
    at, links = Path("/"), 0
    while left:
        at = at.parent if (name := left.pop()) == ".." else at / name
        target = None
        if links < _MOST_LINKS:
            with suppress(OSError):
                target = str(at.readlink())
        yield at, target is not None
        if target is not None:
            left += target.split("/")[::-1]
            at = Path("/") if target.startswith("/") else at.parent
            links += 1


def _loads_nothing_of(word: str, roots: frozenset[str]) -> bool:
    """Switches that stand alone or have a number; a module by its name would be looked for where the program stands."""
    flag, _, value = word.partition("=")
    if not flag.startswith("-"):
        return _is_elsewhere(word, roots)
    if not flag.startswith("--") and len(word) > len("-w"):
        return False
    return not value or value.isdecimal() or _is_elsewhere(value, roots)
