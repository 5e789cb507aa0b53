"""What of an environment reaches a program that we start near an agent's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_mailer.process.environment import find_tool, git_call, without_theirs


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/usr/bin:/bin", "/usr/bin:/bin"),
        (":/usr/bin", "/usr/bin"),
        ("/usr/bin::/bin:", "/usr/bin:/bin"),
        (".:bin:../bin:node_modules/.bin:/usr/bin", "/usr/bin"),
        ("{theirs}:{theirs}/bin:/usr/bin", "/usr/bin"),
        ("{theirs}/../coder/bin:/usr/bin", "/usr/bin"),
        ("{link}:{link}/bin:/usr/bin", "/usr/bin"),
        ("{theirs}2/bin:/usr/bin", "{theirs}2/bin:/usr/bin"),
        (".", None),
        ("", None),
        ("{theirs}/bin", None),
    ],
)
@pytest.mark.parametrize("name", ["PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "NODE_PATH", "PERL5LIB"])
def test_no_place_of_theirs_is_searched(tmp_path: Path, name: str, given: str, kept: str | None) -> None:
    theirs, link = tmp_path / "coder", tmp_path / "link"
    (theirs / "bin").mkdir(parents=True)
    link.symlink_to(theirs)
    names = {"theirs": str(theirs), "link": str(link)}
    found = without_theirs({name: given.format(**names), "HOME": "/home/a"}, [theirs])
    assert found.pop("HOME") == "/home/a"
    assert found == ({} if kept is None else {name: kept.format(**names)})


@pytest.mark.parametrize(
    ("place", "kept"),
    [
        ("{theirs}/out", False),
        ("{theirs}/out/more", False),
        ("{link}/out", False),
        ("{far}", False),
        ("{far}/more", False),
        ("{theirs}/bin/../../tools", False),
        ("{door}/../theirs", False),
        ("{door}/../theirs/bin", False),
        ("{door}", True),
        ("{tools}", True),
        ("{tools}/more", True),
        ("{theirs}/../tools", True),
        ("{link}/../tools", True),
        ("{round}", True),
        ("/", True),
    ],
)
@pytest.mark.parametrize("called", ["theirs", "link"])
def test_no_place_is_searched_that_they_can_lead_elsewhere(tmp_path: Path, called: str, place: str, kept: bool) -> None:
    """A link in their folder, on the way to what is the system's today."""
    places = {name: tmp_path / name for name in ("theirs", "link", "tools", "far", "round", "door")}
    (places["theirs"] / "bin").mkdir(parents=True)
    (places["tools"] / "more").mkdir(parents=True)
    (places["theirs"] / "out").symlink_to("../tools")
    links: dict[str, str | Path] = {
        "link": "theirs",
        "far": places["theirs"] / "out",
        "round": "round",
        "door": "tools/more",
    }
    for name, target in links.items():
        places[name].symlink_to(target)
    place = place.format(**places)
    found = without_theirs({"PATH": f"{place}:/usr/bin", "NODE_OPTIONS": f"-r {place}"}, [places[called]])
    assert found == ({"PATH": f"{place}:/usr/bin", "NODE_OPTIONS": f"-r {place}"} if kept else {"PATH": "/usr/bin"})


def test_a_place_is_followed_as_far_as_the_system_follows_it(tmp_path: Path) -> None:
    there = tmp_path / "theirs" / "bin"
    there.mkdir(parents=True)
    ways = [there]
    while ways[-1].exists():
        ways.append(tmp_path / f"link-{len(ways)}")
        ways[-1].symlink_to(ways[-2])
    assert len(ways) > 30
    for way in ways[:-1]:
        assert without_theirs({"PATH": f"{way}:/usr/bin"}, [tmp_path / "theirs"]) == {"PATH": "/usr/bin"}, way


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("LD_PRELOAD", "/usr/lib/a.so ./b.so", "/usr/lib/a.so"),
        ("BASH_ENV", "env.sh", None),
        ("BASH_ENV", "/etc/env.sh", "/etc/env.sh"),
        ("ENV", "./profile", None),
        ("NODE_OPTIONS", "--max-old-space-size=4096 --use-openssl-ca", "--max-old-space-size=4096 --use-openssl-ca"),
        ("NODE_OPTIONS", "--require ./hook.js", None),
        ("NODE_OPTIONS", "--require hook", None),
        ("NODE_OPTIONS", "--import=hook.mjs", None),
        ("NODE_OPTIONS", "-r /opt/hook.js", "-r /opt/hook.js"),
        ("PERL5OPT", "-Mhook", None),
        ("RUBYOPT", "-rhook", None),
        ("RUBYOPT", "-w", "-w"),
        ("PYTHONUTF8", "1", "1"),
        ("EDITOR", "vi", "vi"),
    ],
)
def test_what_loads_code_by_name(name: str, given: str, kept: str | None) -> None:
    assert without_theirs({name: given}, [Path("/agent")]).get(name) == kept


def test_of_all_variables_and_all_folders_nothing_is_left(tmp_path: Path) -> None:
    theirs = [tmp_path / name for name in ("coder", "planner")]
    places = ":".join(f"{folder}/bin" for folder in theirs)
    given = dict.fromkeys(("PATH", "PYTHONPATH", "LD_LIBRARY_PATH"), f"{places}:/usr/bin")
    loads = {"NODE_OPTIONS": f"-r {theirs[1]}/hook.js", "PERL5OPT": "-Mhook", "RUBYOPT": "-rhook"}
    assert without_theirs(given | loads, theirs) == dict.fromkeys(given, "/usr/bin")


def test_a_tool_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = tmp_path / "bin" / "sh"
    planted.parent.mkdir()
    planted.write_text("#!/bin/sh\n")
    planted.chmod(0o755)
    monkeypatch.chdir(planted.parent)
    monkeypatch.setenv("PATH", f".:{planted.parent}:/usr/bin:/bin")
    assert find_tool("sh") == str(planted)
    assert find_tool("sh", [tmp_path]) in ("/usr/bin/sh", "/bin/sh")


def test_git_knows_one_repository_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("GIT_SSH_COMMAND", "./ssh")
    argv, env = git_call("/usr/bin/git", ["status"], [])
    assert argv[0] == "/usr/bin/git"
    assert argv[-1] == "status"
    programs = ("core.fsmonitor=false", "core.hooksPath=/dev/null", "core.pager=cat", "core.sshCommand=false")
    assert {*programs, "diff.external=", "credential.helper=", "core.askPass="} <= set(argv)
    assert (env.get("HOME"), env["LC_ALL"]) == (os.environ.get("HOME"), "C")
    assert not {name for name in env if name.startswith("GIT_")} - {
        "GIT_OPTIONAL_LOCKS",
        "GIT_TERMINAL_PROMPT",
        "GIT_PAGER",
    }


TAKE_CODE_FROM = (
    *("PATH", "BASH_ENV", "ENV"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT", "GCONV_PATH"),
    *("DYLD_LIBRARY_PATH", "DYLD_FRAMEWORK_PATH", "DYLD_INSERT_LIBRARIES"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONSTARTUP", "PYTHONPYCACHEPREFIX"),
    *("PERL5LIB", "PERLLIB", "RUBYLIB", "GEM_HOME", "GEM_PATH", "NODE_PATH", "CLASSPATH"),
    *("GIT_EXEC_PATH", "GIT_TEMPLATE_DIR", "GIT_CONFIG", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"),
)
"""As the manuals of the loaders, interpreters and of git name them."""


@pytest.mark.parametrize("name", TAKE_CODE_FROM)
@pytest.mark.parametrize("place", ["theirs", "{theirs}/x"])
def test_nothing_of_theirs_is_code_by_any_variable(tmp_path: Path, name: str, place: str) -> None:
    (theirs := tmp_path / "coder").mkdir()
    assert without_theirs({name: place.format(theirs=theirs)}, [theirs]) == {}
    assert without_theirs({name: "/usr/lib/x"}, [theirs]) == {name: "/usr/lib/x"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NODE_OPTIONS", "--require theirs"),
        ("PERL5OPT", "-Itheirs -Mtheirs"),
        ("RUBYOPT", "-Itheirs -rtheirs"),
        ("JAVA_TOOL_OPTIONS", "-javaagent:theirs.jar"),
        ("_JAVA_OPTIONS", "-javaagent:theirs.jar"),
        ("PYTHONBREAKPOINT", "theirs.stop"),
    ],
)
def test_nothing_of_theirs_is_code_by_words_of_a_command_line(tmp_path: Path, name: str, words: str) -> None:
    assert without_theirs({name: words, "HOME": "/h"}, [tmp_path]) == {"HOME": "/h"}
