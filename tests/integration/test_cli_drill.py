"""`drill`: it kills what runs here, says what came of it, leaves nothing behind, and finds what is planted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.desk import Desk
from tests.proved import Harness, proved
from tests.sizes import LONG, SOAK
from tests.typed import COMMAND, PATIENCE, type_in

from agent_mailer.cli.demo import staged
from agent_mailer.cli.drill import _filled
from agent_mailer.drill import scene as drill_scene
from agent_mailer.drill.scene import Scene
from agent_mailer.drill.verdict import Sent, judge


@LONG
def test_it_kills_and_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    done = type_in(tmp_path, "drill", "--rounds", "6", "--seed", "1", "--dir", tmp_path)
    [counted] = [line for line in done.out.splitlines() if line.startswith("6 kills, ")]
    assert counted.endswith("0 lost, 0 twice, 0 out of order, 0 left running"), done
    small = "On a small disk that got full: 8 kills" in done.out
    assert small or "A full disk could not be made here" in done.out
    assert list(tmp_path.glob("agent-mailer-drill-*")) == []
    kind = done.out.partition("(")[2].partition(",")[0]
    proved(Harness.DRILL, **{f"kills on {kind}": 6}, kills_on_a_disk_that_got_full=8 * small)


@LONG
def test_on_an_overlay_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    """What containers have for a disk: in a mount namespace of its own, which takes it away again."""
    for name in ("lower", "upper", "work", "whole"):
        (tmp_path / name).mkdir()
    layers = "lowerdir=lower,upperdir=upper,workdir=work"
    script = f'cd "$1" && shift && mount -t overlay -o {layers} overlay whole && exec "$@"'
    own = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    inside = [*own, "sh", "-c", script, "sh", str(tmp_path)]
    if (probe := subprocess.run([*inside, "true"], capture_output=True, text=True, check=False)).returncode != 0:
        pytest.skip(f"no overlay can be mounted here: {probe.stderr.strip()}")
    # By way of a broker: then no small disk is made beside, which another test does.
    words = [COMMAND, "drill", "--rounds", "5", "--seed", "3", "--broker", "--json", "--dir", str(tmp_path / "whole")]
    done = subprocess.run([*inside, *words], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done
    told = json.loads(done.stdout)
    assert (told["held"], told["kills"], told["where"].split(",")[0]) == (True, 5, "overlay")
    proved(Harness.DRILL, kills_on_overlay=5)


@SOAK
def test_a_disk_that_gets_full_costs_nothing(tmp_path: Path) -> None:
    done = type_in(tmp_path, "drill", "--rounds", "6", "--dir", tmp_path)
    assert done.status == 0, done
    assert "On a small disk that got full: 8 kills" in done.out


@LONG
def test_it_kills_a_broker_as_well(tmp_path: Path) -> None:
    done = type_in(tmp_path, "drill", "--rounds", "6", "--seed", "2", "--broker", "--keep", "--json", "--dir", tmp_path)
    assert done.status == 0, done
    told = json.loads(done.out)
    assert (told["held"], told["kills"], told["lost"], told["twice"]) == (True, 6, [], [])
    assert told["by_victim"]["the broker"] >= 1
    proved(Harness.DRILL, **{f"kills on {told['where'].split(',')[0]}": 6})
    [kept] = tmp_path.glob("agent-mailer-drill-*")
    assert (kept / "worker" / ".agent-mailer" / "config.toml").is_file()


@LONG
def test_an_agent_that_answers_twice_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is planted in the drill's agent: what a broken product would let arrive."""
    reply = 'agent-mailer mail reply --body "done"\n'
    assert reply in drill_scene._AGENT
    monkeypatch.setattr(
        drill_scene, "_AGENT", drill_scene._AGENT.replace(reply, reply + reply.replace("done", "again"))
    )
    scene = Scene(tmp_path, broker=False)
    try:
        scene.prepare()
        scene.send("red")
        scene.finish()
        assert judge(scene.evidence).twice == ("drill 1: 2 answers",)
    finally:
        scene.close()


def test_an_answer_that_arrived_twice_is_counted_twice_and_no_other_mail(tmp_path: Path) -> None:
    desk, scene = Desk(tmp_path), Scene(tmp_path, broker=False)
    scene.evidence.sent += [Sent("red", f"id{number}", f"drill {number}") for number in (1, 2)]
    scene.evidence.runs += ["id1", "id2"]
    for subject in ("Re: drill 1", "Re: drill 2", "drill 1", "Re: drill 1"):
        desk.send("done", sender="worker", to="user", subject=subject)
    scene.evidence.answers = scene._answers()
    assert sorted(scene.evidence.answers) == ["Re: drill 1", "Re: drill 1", "Re: drill 2"]
    assert judge(scene.evidence).twice == ("drill 1: 2 answers",)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = type_in(tmp_path, "drill", "--dir", tmp_path / "nothing")
    assert (done.status, "no scratch folder can be made" in done.err) == (2, True), done


def test_a_case_is_one_file_beside_the_scratch_folder(tmp_path: Path) -> None:
    from agent_mailer.cli.drill import _pack

    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "witness").write_text("start 1\n")
    (tmp_path / "disk").mkdir()
    for beside in (tmp_path / "scratch", tmp_path / "disk" / "its own"):
        case = _pack(tmp_path / "scratch", beside=beside)
        assert case.parent == beside.parent
        with tarfile.open(case) as archive:
            assert archive.getnames() == ["scratch", "scratch/witness"]


@pytest.mark.parametrize(
    ("output", "held", "said", "case"),
    [
        ('{"held": true, "sentence": "8 kills", "case": ""}', True, "8 kills", ""),
        ('{"held": false, "sentence": "1 lost", "case": "/x/case.tar.gz"}', False, "1 lost", "/x/case.tar.gz"),
        ('stopping\n{\n"error": {"message": "no room", "fix": "look"}}', False, "no room (look)", ""),
        ("mount: no such thing\n", False, "mount: no such thing", ""),
        ("", False, "", ""),
    ],
)
def test_a_drill_on_a_small_disk_that_did_not_say_that_all_held_proves_nothing(
    output: str, held: bool, said: str, case: str
) -> None:
    found = _filled(output)
    assert found == (held, f"On a small disk that got full: {said}", case)


def test_who_is_interrupted_while_a_watcher_stops_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, broker=False)
    scene.prepare()
    scene.watch()
    watcher, until = scene._watcher, Scene._until
    assert watcher is not None

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Scene, "_until", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scene.strike_watcher(signal.SIGSTOP)
    monkeypatch.setattr(Scene, "_until", until)
    scene.close()
    assert watcher.status() is not None


def test_what_was_staged_leaves_its_signals_as_they_were() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    heard: list[str] = []

    class Play:
        def close(self) -> None:
            heard.extend(number.name for number in numbers if signal.getsignal(number) is signal.SIG_IGN)

        def remove(self) -> None:
            heard.append("removed")

    with staged(Play(), keep=False):
        assert signal.getsignal(signal.SIGTERM) not in before
    assert heard == ["SIGINT", "SIGTERM", "SIGHUP", "removed"]
    assert [signal.getsignal(number) for number in numbers] == before
