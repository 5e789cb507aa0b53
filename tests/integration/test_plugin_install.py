"""`plugin`: what it puts into the user's folders, what it leaves alone, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from tests.crash.world import Weather
from tests.refusing import Died
from tests.typed import COMMAND, type_in

from agent_mailer import __version__
from agent_mailer.disk import Disk
from agent_mailer.errors import UnavailableFault, UsageFault
from agent_mailer.live.heard import Program
from agent_mailer.live.placing import Place
from agent_mailer.live.plugins import OLDEST, Plugins
from agent_mailer.live.sessions import LiveSession, LiveSessions
from agent_mailer.live.shipped import Target, files_of
from agent_mailer.live.telling import MARK
from agent_mailer.process.handle import identify
from agent_mailer.state.workdirs import user_state

ODD = Path('/srv/odd "place"/it\'s/agent-mailer')


@pytest.mark.parametrize("target", Target)
def test_a_plugins_files_are_filled_in_whatever_the_program_is_called(target: Target) -> None:
    files = files_of(target, ODD, "1.2.3")
    for name, data in files.items():
        assert b"@" not in data.replace(b"mailer@agent-mailer", b""), name
        if name.endswith(".json"):
            json.loads(data)
    skill = next(data for name, data in files.items() if name.endswith("SKILL.md"))
    assert skill.startswith(b"---\nname: ")
    if target is Target.SKILL:
        return
    manifest = json.loads(files[f"mailer/.{target.value}-plugin/plugin.json"])
    assert (manifest["name"], manifest["version"]) == ("mailer", "1.2.3")
    server = json.loads(files["mailer/.mcp.json"])["mcpServers"]["mail"]
    assert (server["command"], server["args"]) == (str(ODD), ["mcp", "--person"])
    hooks = json.loads(files["mailer/hooks/hooks.json"])["hooks"]
    assert all('/hooks/hook.sh"' in hook["command"] for entries in hooks.values() for hook in entries[0]["hooks"])
    script = files["mailer/hooks/hook.sh"].decode()
    assert f"""| '/srv/odd "place"/it'"'"'s/agent-mailer' plugin hook {target.value}\n""" in script
    assert f"*'{MARK}'*" in script


def test_the_skill_comes_and_goes_and_nothing_else_does(home: Path, tmp_path: Path) -> None:
    other = home / ".agents" / "skills" / "mine" / "SKILL.md"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    assert "not installed" in type_in(tmp_path, "plugin", "status").out
    assert type_in(tmp_path, "plugin", "status", "skill").status == 1
    for _ in range(2):
        assert type_in(tmp_path, "plugin", "install", "skill").status == 0
    ours = other.parents[1] / "agent-mailer"
    assert "agent-mailer inbox" in (ours / "SKILL.md").read_text()
    assert type_in(tmp_path, "plugin", "status", "skill").status == 0
    (ours / "SKILL.md").write_text("changed")
    assert "not as it was put there" in type_in(tmp_path, "plugin", "status", "skill").out
    (ours / "note").write_text("mine, too")
    done = type_in(tmp_path, "plugin", "uninstall", "skill")
    assert "kept      note there" in done.out
    assert sorted(path.name for path in ours.iterdir()) == ["note"]
    assert other.read_text() == "mine"
    assert "nothing   of skill" in type_in(tmp_path, "plugin", "uninstall", "skill").out
    refused = type_in(tmp_path, "plugin", "install", "skill")
    assert (refused.status, "not from this command" in refused.err) == (2, True)


def test_the_home_is_found_without_a_variable(home: Path, tmp_path: Path) -> None:
    """As under a service manager, which sets none."""
    plugins = Plugins(ODD, "1.2.3", tmp_path / "data", {}, Disk())
    assert plugins.standing(Target.SKILL) == (False, "not installed: agent-mailer plugin install skill")
    assert list(plugins.install(Target.SKILL)) == [f"wrote     {home / '.agents/skills/agent-mailer'}"]


def test_nothing_is_put_through_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for inside in ("a/b", "c"):
        place = Place(tmp_path / "base", inside, Disk())
        link = tmp_path / "base" / inside.partition("/")[0]
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(elsewhere)
        with pytest.raises(UsageFault, match="is a link"):
            place.put({"x/y": b"z"}, "1")
    place = Place(tmp_path / "base", "d", Disk())
    place.put({"x/y": b"z"}, "1")
    (place.folder / "x" / "y").unlink()
    (place.folder / "x").rmdir()
    (place.folder / "x").symlink_to(elsewhere)
    with pytest.raises(UsageFault, match="is a link"):
        place.take_away()
    assert list(elsewhere.iterdir()) == []


def test_what_another_version_had_besides_goes_with_it(tmp_path: Path) -> None:
    place = Place(tmp_path, "ours", Disk())
    place.put({"old/deep/file": b"1", "both": b"1"}, "1")
    assert not place.holds({"both": b"2"})
    place.put({"both": b"2"}, "2")
    assert place.holds({"both": b"2"})
    assert sorted(path.name for path in place.folder.iterdir()) == ["both", "installed.json"]
    (place.folder / "installed.json").write_text(json.dumps({"version": "2", "files": ["../../victim"]}))
    (tmp_path.parent / "victim").touch()
    assert list(place.take_away()) == []
    assert (tmp_path.parent / "victim").exists()


def test_what_a_crash_leaves_of_it_is_on_its_list(tmp_path: Path) -> None:
    """Killed anywhere, it is put there when that is said again, and taken away as a whole."""
    weather, new = Weather(), {"new/deep/one": b"2", "both": b"2"}
    for dies_in in count(1):
        place = Place(tmp_path, str(dies_in), Disk(weather))
        if dies_in % 2:
            place.put({"a/old": b"1", "both": b"1"}, "1")
        died = [_dies(weather, dies_in, partial(place.put, new, "2"))]
        place.put(new, "2")
        assert place.holds(new), dies_in
        died.append(_dies(weather, dies_in, place.take_away))
        assert place.take_away() == (), dies_in
        assert not [*place.folder.glob("*")], dies_in
        if not any(died):
            break
    assert dies_in > 5


def _dies(weather: Weather, dies_in: int, does: Callable[[], object]) -> bool:
    """Whether it died on its way."""
    weather.dies_in = dies_in
    try:
        does()
    except Died:
        return True
    finally:
        weather.fair()
    return False


def test_a_market_of_our_name_from_elsewhere_is_left_alone_and_a_command_that_fails_is_told(
    home: Path, tmp_path: Path
) -> None:
    program, market = tmp_path / "bin" / "claude", tmp_path / "market"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncase "$*" in --version) echo 9.9.9 ;; *"marketplace list"*) cat {market} ;; *--json) echo "[]" ;; '
        f'*install*) exit 3 ;; *) echo "$*" >>{tmp_path}/done ;; esac\n'
    )
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:{Path(COMMAND).parent}:/usr/bin:/bin"}
    market.write_text(json.dumps([{"name": "agent-mailer", "path": "/srv/somebody's"}]))
    for verb in ("install", "uninstall"):
        refused = type_in(tmp_path, "plugin", verb, "claude", env=env)
        assert (refused.status, "from /srv/somebody's" in refused.err) == (2, True), verb
    assert not (home / ".local" / "share" / "agent-mailer").exists()
    assert not (tmp_path / "done").exists()
    market.write_text("[]")
    failed = type_in(tmp_path, "plugin", "install", "claude", env=env)
    assert (failed.status, "ended with 3" in failed.err) == (69, True)
    assert type_in(tmp_path, "plugin", "status", "claude", env=env).status == 1


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_a_command_without_an_end_has_done_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("agent_mailer.live.plugins.SECONDS", 0.2)
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\ncase "$*" in --version) echo 9.9.9 ;; *) echo "[]" ;; esac\nexec sleep 600\n')
    program.chmod(0o755)
    plugins = Plugins(ODD, "1.2.3", tmp_path / "data", {"PATH": f"{program.parent}:/usr/bin:/bin"}, Disk())
    place = Place(tmp_path, "data/plugins/claude", Disk())
    files = files_of(Target.CLAUDE, ODD, "1.2.3")
    if verb == "uninstall":
        place.put(files, "1.2.3")
    with pytest.raises(UnavailableFault, match=r"claude .* did not end"):
        list(getattr(plugins, verb)(Target.CLAUDE))
    assert place.holds(files) is (verb == "uninstall")


def test_a_program_that_is_missing_or_too_old_is_told_and_nothing_is_written(home: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    env = {"PATH": f"{programs}:{Path(COMMAND).parent}:/usr/bin:/bin"}
    missing = type_in(tmp_path, "plugin", "install", "claude", env=env)
    assert (missing.status, "claude is not in PATH" in missing.err) == (69, True)
    old = programs / "claude"
    old.write_text("#!/bin/sh\necho '2.0.14 (Claude Code)'\n")
    old.chmod(0o755)
    done = type_in(tmp_path, "plugin", "install", "claude", env=env)
    assert (
        done.status,
        f"claude is 2.0.14; the plugin needs {'.'.join(map(str, OLDEST[Target.CLAUDE]))}" in done.err,
    ) == (78, True)
    assert "claude update" in done.err
    assert not (home / ".local" / "share" / "agent-mailer").exists()
    assert type_in(tmp_path, "plugin", "install", "vim", env=env).status == 2
    in_turn = type_in(tmp_path, "plugin", "install", "skill", env={**env, "AGENT_MAILER_TURN_DIR": str(tmp_path)})
    assert (in_turn.status, os.path.exists(home / ".agents")) == (78, False)


def test_a_program_that_fails_hides_nothing_of_the_others(home: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\ncase "$*" in --version) echo 9.9.9 ;; *--json) echo "[]" ;; esac\n')
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:{Path(COMMAND).parent}:/usr/bin:/bin"}
    assert type_in(tmp_path, "plugin", "install", "claude", env=env).status == 0
    program.write_text("#!/bin/sh\necho its settings are broken\nexit 3\n")
    done = type_in(tmp_path, "plugin", "status", env=env)
    assert [line.split()[0] for line in done.out.splitlines()] == ["claude", "codex", "skill"]
    assert "its settings are broken" in done.out
    assert type_in(tmp_path, "plugin", "status", "claude", env=env).status == 1


@pytest.mark.parametrize("goes", Program)
def test_with_a_plugin_go_the_sessions_of_its_program_and_no_other(home: Path, tmp_path: Path, goes: Program) -> None:
    """Nothing would ring in them any more, and mail would be offered to them and wait."""
    program = tmp_path / "bin" / goes.value
    program.parent.mkdir()
    no_market, no_plugin = ("[]", "[]") if goes is Program.CLAUDE else ('{"marketplaces": []}', '{"installed": []}')
    program.write_text(
        f"#!/bin/sh\ncase \"$*\" in --version) echo 9.9.9 ;; *market*--json) echo '{no_market}' ;; "
        f"*--json) echo '{no_plugin}' ;; esac\n"
    )
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:{Path(COMMAND).parent}:/usr/bin:/bin"}
    assert type_in(tmp_path, "plugin", "install", goes.value, env=env).status == 0
    sessions = LiveSessions(user_state() / "live", Disk())
    for one in Program:
        sessions.keep(LiveSession(one, "s", identify(os.getpid())))
    assert type_in(tmp_path, "plugin", "uninstall", "skill", env=env).status == 0
    assert [one for one in Program if sessions.find(one, "s") is None] == []
    assert type_in(tmp_path, "plugin", "uninstall", goes.value, env=env).status == 0
    assert [one for one in Program if sessions.find(one, "s") is None] == [goes]


def test_the_version_is_that_of_the_program() -> None:
    assert json.loads(files_of(Target.CODEX, ODD, __version__)["mailer/.codex-plugin/plugin.json"])["version"]


@pytest.mark.parametrize(("status", "ends"), [(10, 2), (2, 0), (0, 0), (127, 0)])
def test_only_a_ring_begins_a_turn_whatever_else_goes_wrong(tmp_path: Path, status: int, ends: int) -> None:
    program = tmp_path / "it's a program"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/heard\nexit {status}\n")
    program.chmod(0o755)
    script = tmp_path / "hook.sh"
    script.write_bytes(files_of(Target.CLAUDE, program, "1")["mailer/hooks/hook.sh"])
    attended = {"CLAUDE_CODE_ENTRYPOINT": "cli", "PATH": os.environ["PATH"]}

    def call(word: str, said: str, **env: str) -> int:
        argv = ["sh", str(script), *word.split()]
        return subprocess.run(argv, env=attended | env, input=said.encode(), check=False).returncode

    assert call("", "said") == ends
    assert (tmp_path / "heard").read_text() == "said\n"
    (tmp_path / "heard").unlink()
    assert call("", "said", CLAUDE_CODE_ENTRYPOINT="sdk-cli") == 0
    assert call("", "said", AGENT_MAILER_TURN_DIR="/t") == 0
    assert call("prompt", f"x {MARK} y") == 0
    assert not (tmp_path / "heard").exists()
