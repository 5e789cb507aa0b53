"""Commands over a workdir's state: what they show, what they change, with and without a watcher that runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest
from tests import procfs
from tests.clocks import utc_day
from tests.desk import Desk, outcomes, until
from tests.sizes import LONG
from tests.typed import COMMAND, Typed, type_in

from agent_mailer.desk import asking
from agent_mailer.errors import UnavailableFault
from agent_mailer.outcomes import Outcome
from agent_mailer.state.records import DeadLetter, SessionEntry
from agent_mailer.state.requests import Request, Verb
from agent_mailer.views.kept import sessions

ODD_THREADS = ("../../x", "a/b", "x" * 300, "two\nlines", "..", "\x1b[2J", "/etc/passwd")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def at(desk: Desk, *words: str, env: dict[str, str] | None = None) -> Typed:
    return type_in(desk.workdir, *words, env=env)


def dead(desk: Desk) -> str:
    """A message that was given up."""
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; echo 'no luck' >&2; exit 3")
    message_id = desk.send("try", thread="sad")
    desk.once()
    return message_id


def until_it_watches(desk: Desk, watcher: subprocess.Popen[bytes]) -> None:
    """The pid too: the lock file may still name a process that had it before."""
    until(lambda: at(desk, "status", "--json").json["watcher"]["pid"] == watcher.pid, "the watcher")


def files_of(desk: Desk) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in desk.base.rglob("*") if path.is_file() and path.name != ".lock"}


def test_status_of_an_agent_at_rest(desk: Desk) -> None:
    desk.once()
    desk.send("one")
    before = files_of(desk)
    shown = at(desk, "status", "--json").json
    assert files_of(desk) == before
    assert set(shown) == {
        *("workdir", "agent", "runtime", "watcher", "mailbox", "running", "retries", "dead_letters"),
        *("pause", "trouble", "today", "last_events", "untrusted", "settling"),
        *(
            "healthy",
            "problems",
            "blocked",
            "results",
            "next_wake",
            "stuck",
            "held",
            "asked",
            "self_approving",
            "sandbox",
            "schedules",
        ),
        *("unknown", "offered", "uncounted", "in_the_way", "stopped"),
    }
    assert (shown["agent"], shown["runtime"], shown["watcher"]["running"]) == ("coder", "command", False)
    assert (shown["mailbox"]["waiting"], shown["mailbox"]["root"]) == (1, str(desk.root))
    assert (shown["running"], shown["pause"], shown["dead_letters"]) == ([], None, 0)
    assert set(shown["today"]) == {"turns", "seconds", "input_tokens", "output_tokens", "cost_usd"}
    screen = at(desk, "status").out
    assert "not running" in screen
    assert "waiting  1, the oldest for " in screen


def test_status_tells_of_a_mailbox_that_is_gone(desk: Desk) -> None:
    desk.root.rename(desk.base / "moved")
    shown = at(desk, "status", "--json")
    assert shown.status == 1, shown
    assert [problem["code"] for problem in shown.json["problems"]] == ["no_watcher", "mailbox"]
    assert str(desk.root) in shown.json["mailbox"]["problem"]


def test_status_while_a_turn_runs_and_after_it_failed(desk: Desk) -> None:
    go = desk.base / "go"
    desk.script({"wait_for": str(go)}, {"exit": 4})
    desk.configure(max_retries=5)
    message_id, began = desk.send("slow"), utc_day()
    with desk.watching() as watcher:
        until(lambda: at(desk, "status", "--json").json["running"], "a running turn")
        shown = at(desk, "status", "--json").json
        assert shown["watcher"]["running"] is True
        assert shown["watcher"]["pid"] == watcher.pid
        (turn,) = shown["running"]
        assert (turn["message_id"], turn["sender"], turn["phase"]) == (message_id, "user", "running")
        assert turn["seconds"] >= 0
        assert shown["mailbox"]["waiting"] == 0
        assert turn["turn_id"] in at(desk, "status").out
        paused = at(desk, "pause", "--reason", "lunch")
        assert paused.status == 0, paused
        go.touch()
        until(lambda: at(desk, "status", "--json").json["retries"], "a retry")
        shown = at(desk, "status", "--json").json
        assert shown["retries"][0]["last_outcome"] == "failed"
        assert (shown["pause"]["reason"], shown["pause"]["detail"]) == ("by_hand", "lunch")
        assert shown["today"]["turns"] == 1 or utc_day() != began
        assert "lunch" in at(desk, "status").out
        # Before the retry may be due, which may be at once.
        watcher.send_signal(signal.SIGTERM)
        watcher.wait(timeout=60)
    resumed = at(desk, "resume")
    assert (resumed.status, resumed.out) == (0, "resumed\n")
    retries = desk.place().state.retries
    [entry] = retries.all()
    assert "failed once, last: failed" in at(desk, "status").out
    retries.put(msgspec.structs.replace(entry, history=(), attempts=2, revision=entry.revision + 1))
    # Nothing ran, and so there is no outcome that was the last.
    assert "failed 2 times\n" in at(desk, "status").out


def test_pause_and_resume_without_a_watcher(desk: Desk) -> None:
    message_id = desk.send("x")
    assert at(desk, "pause").status == 0
    desk.once()
    assert at(desk, "status", "--json").json["mailbox"]["waiting"] == 1
    assert at(desk, "resume").out == "resumed\n"
    assert at(desk, "resume").out == "nothing was paused\n"
    desk.once()
    assert desk.inbox()[0].refs == (message_id,)


@pytest.mark.parametrize("watched", [False, True], ids=["alone", "watched"])
def test_dead_letters_are_listed_retried_and_purged(desk: Desk, watched: bool) -> None:
    message_id = dead(desk)
    assert at(desk, "status", "--json").json["dead_letters"] == 1
    (letter,) = at(desk, "dead-letter", "list", "--json").json["dead_letters"]
    assert (letter["message_id"], letter["thread"], letter["from"]) == (message_id, "sad", "user")
    assert (letter["outcome"], letter["last_error"], len(letter["history"])) == ("failed", "no luck", 1)
    assert "no luck" in at(desk, "dead-letter", "list").out
    for words, status in ((["retry"], 2), (["retry", "nope"], 1), (["retry", message_id, "--all"], 2), (["purge"], 2)):
        assert at(desk, "dead-letter", *words).status == status
    desk.shell("cat >/dev/null; echo better")
    watcher = desk.start_watch() if watched else None
    try:
        if watcher is not None:
            until_it_watches(desk, watcher)
        retried = at(desk, "dead-letter", "retry", message_id[:30])
        assert (retried.status, retried.out) == (0, f"{message_id}: pending again\n"), retried
        if not watched:
            desk.once()
        until(lambda: [m.body for m in desk.inbox() if m.body == "better\n"], "the answer")
        assert at(desk, "dead-letter", "list", "--json").json["dead_letters"] == []
        assert at(desk, "dead-letter", "purge", "--all").out == "0 dead letters removed\n"
    finally:
        if watcher is not None:
            watcher.terminate()
            watcher.wait(timeout=60)
    assert [path.name for path in (desk.state / "requests").iterdir()] == []


def test_purge_forgets_one_and_only_one(desk: Desk) -> None:
    first, second = dead(desk), dead(desk)
    done = at(desk, "dead-letter", "purge", first)
    assert (done.status, done.out) == (0, "1 dead letters removed\n")
    assert [row["message_id"] for row in at(desk, "dead-letter", "list", "--json").json["dead_letters"]] == [second]


def test_what_no_watcher_answers_in_time_is_taken_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asking.ANSWER_SECONDS == 10.0
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.1)
    place = desk.place()
    watcher = place.lock()
    watcher.acquire()
    try:
        place.prepare()
        with pytest.raises(UnavailableFault, match="nothing was changed"):
            asking.ask(desk.place(), Request(Verb.PAUSE))
    finally:
        watcher.release()
    desk.send()
    assert outcomes(desk.once()) == ["done"], "a later watcher finds no word of it"


@LONG
def test_a_watcher_that_does_not_answer_changes_nothing(desk: Desk) -> None:
    message_id = dead(desk)
    with desk.watching() as watcher:
        until_it_watches(desk, watcher)
        procfs.halt(watcher.pid)
        done = at(desk, "dead-letter", "purge", message_id)
        assert (done.status, "has not answered" in done.err) == (69, True), done
        assert list((desk.state / "requests").glob("*.json")) == []
        watcher.send_signal(signal.SIGCONT)
        watcher.terminate()
        watcher.wait(timeout=60)
    assert at(desk, "status", "--json").json["dead_letters"] == 1


def test_a_watcher_that_dies_over_a_request_leaves_it_to_the_command(desk: Desk) -> None:
    message_id = dead(desk)
    with desk.watching() as watcher:
        until_it_watches(desk, watcher)
        procfs.halt(watcher.pid)
        asking = subprocess.Popen([COMMAND, "dead-letter", "purge", message_id], cwd=desk.workdir)
        until(lambda: list((desk.state / "requests").glob("*.json")), "the request")
        watcher.kill()
        assert asking.wait(timeout=60) == 0
    assert at(desk, "status", "--json").json["dead_letters"] == 0


def test_sessions_are_listed_shown_dropped_and_forgotten(desk: Desk) -> None:
    desk.configure(command_output="jsonl")
    desk.script({"emit": {"type": "session", "id": "s-1"}}, {"emit": {"type": "result"}})
    threads = ["red", "green", *ODD_THREADS[:4]]
    for thread in threads:
        desk.send(thread=thread)
    desk.once()
    listed = at(desk, "sessions", "list", "--json").json["sessions"]
    assert {row["thread"] for row in listed} == set(threads)
    assert {row["turns"] for row in listed} == {1}
    assert "two\\nlines" in at(desk, "sessions", "list").out
    shown = at(desk, "sessions", "show", "gre", "--json").json["session"]
    assert (shown["thread"], shown["runtime"]) == ("green", "command")
    for thread in ODD_THREADS[:4]:
        assert at(desk, "sessions", "show", thread, "--json").json["session"]["thread"] == thread
        assert at(desk, "sessions", "invalidate", thread).status == 0
    assert at(desk, "sessions", "invalidate", "../../x").status == 1
    assert {row["thread"] for row in at(desk, "sessions", "list", "--json").json["sessions"]} == {"red", "green"}
    assert at(desk, "sessions", "invalidate").status == 2
    for words in (["--older-than", "soon"], ["--older-than", "-1d"], []):
        assert at(desk, "sessions", "prune", *words).status == 2
    assert at(desk, "sessions", "prune", "--older-than", "1h").out == "0 sessions forgotten\n"
    assert at(desk, "sessions", "invalidate", "--all").status == 0
    assert at(desk, "sessions", "list", "--json").json["sessions"] == []
    assert at(desk, "sessions", "prune", "--older-than", "0s").out == f"{len(threads)} sessions forgotten\n"


@pytest.mark.parametrize("thread", ODD_THREADS)
def test_notes_of_odd_threads_stay_in_their_folder(desk: Desk, tmp_path: Path, thread: str) -> None:
    before = {path for path in tmp_path.rglob("*") if desk.state not in path.parents}
    missing = at(desk, "memory", "show", "--thread", thread)
    assert (missing.status, "no note" in missing.err) == (1, True), missing
    edited = at(
        desk, "memory", "edit", "--thread", thread, env={"EDITOR": "sh -c 'echo known >> \"$1\"' sh", "VISUAL": ""}
    )
    assert edited.status == 0, edited
    (note,) = (desk.state / "memory").iterdir()
    assert note.read_text().endswith("Handoff Notes\nknown\n")
    shown = at(desk, "memory", "show", "--thread", thread, "--json").json
    assert (shown["file"], shown["thread"]) == (str(note), thread)
    assert {path for path in tmp_path.rglob("*") if desk.state not in path.parents} == before


def test_the_global_note_and_the_list_of_notes(desk: Desk) -> None:
    assert at(desk, "memory", "ls").status == 0
    edited = at(desk, "memory", "edit", env={"EDITOR": 'sh -c \'printf "fact\\033[2J\\n" >> "$1"\' sh', "VISUAL": ""})
    assert edited.status == 0, edited
    shown = at(desk, "memory", "show")
    assert "Global memory of coder" in shown.out
    assert "fact\\x1b[2J\n" in shown.out
    assert [row["name"] for row in at(desk, "memory", "ls", "--json").json["notes"]] == ["global"]
    secret = desk.base / "secret"
    secret.write_text("secret")
    (desk.state / "memory" / "link.md").symlink_to(secret)
    linked = at(desk, "memory", "show", "--thread", "link")
    assert (linked.status, "secret" in linked.out) == (1, False), linked
    assert at(desk, "memory", "show", "--thread", "").status == 2


def test_the_story_of_a_thread(desk: Desk) -> None:
    usage = {"type": "usage", "input_tokens": 1200, "output_tokens": 30, "cost_usd": 0.25}
    desk.configure(command_output="jsonl", max_retries=0)
    desk.script(
        {"emit": {"type": "session", "id": "s-1"}},
        {"emit": usage},
        {"emit": {"type": "result", "text": "all done"}},
    )
    desk.send("please", thread="green", subject="Paint it")
    desk.once()
    desk.script({"error": "no paint"}, {"exit": 3})
    lost = desk.send("again", thread="green", subject="Once more")
    desk.once()
    told = [
        "Paint it",
        "done",
        "$0.2500",
        "auto-reply",
        "Once more",
        "failed",
        "no paint",
        "dead-letter show",
        "2 turns",
    ]
    for words in (["turns", "thread", "gre"], ["turns", "thread", lost], ["sessions", "show", "green"]):
        shown = at(desk, *words)
        assert shown.status == 0, shown
        positions = [shown.out.find(word) for word in told]
        assert -1 not in positions, (told, shown.out)
        assert positions == sorted(positions), shown.out
        assert "please" not in shown.out
    story = at(desk, "turns", "thread", "green", "--json").json
    assert [message["subject"] for message in story["messages"]][:2] == ["Paint it", "Re: Paint it"]
    assert story["spent"]["cost_usd"] == 0.25
    assert story["dead_letters"] == [lost]
    assert "1,200 tokens in, 30 out" in at(desk, "turns", "thread", "green").out
    assert "$0.2500" in at(desk, "turns", "list", "--thread", "green").out
    assert at(desk, "turns", "thread", "blue").status == 1


def test_dead_letters_are_shown_and_chosen_by_how_they_ended(desk: Desk) -> None:
    message_id = dead(desk)
    shown = at(desk, "dead-letter", "show", message_id[:30])
    for words in ("thread      sad", "outcome     failed", "no luck", "dead-letter retry"):
        assert words in shown.out + shown.err
    (turn,) = at(desk, "turns", "list", "--json").json["turns"]
    assert turn["turn_id"] in shown.out
    assert (
        at(desk, "dead-letter", "show", message_id, "--json").json["dead_letter"]["history"][0]["outcome"] == "failed"
    )
    for choice, status in (
        (["--all", "--reason", "timed_out"], 1),
        (["--all", "--reason", "bored"], 2),
        (["--reason", "failed"], 2),
        ([message_id, "--reason", "failed"], 2),
    ):
        assert at(desk, "dead-letter", "retry", *choice).status == status
    assert at(desk, "dead-letter", "list", "--reason", "crashed", "--json").json == {"dead_letters": []}
    assert "pending again" in at(desk, "dead-letter", "retry", "--all", "--reason", "failed").out
    assert at(desk, "dead-letter", "list", "--json").json == {"dead_letters": []}


@pytest.mark.parametrize(
    "locale",
    [
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=LONG),
        pytest.param({"LC_ALL": "POSIX"}, marks=LONG),
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=LONG),
    ],
)
def test_no_command_fails_for_a_character_that_the_locale_lacks(desk: Desk, locale: dict[str, str]) -> None:
    desk.configure(max_retries=0)
    desk.shell("cat >/dev/null; echo '漢字 é 🙂' >&2; exit 3")
    message_id = desk.send("漢字 é 🙂 body", thread="漢字-é-🙂", subject="漢字 é 🙂")
    desk.once()
    (turn,) = at(desk, "turns", "list", "--json").json["turns"]
    for words in (
        ["status"],
        ["logs"],
        ["turns", "list"],
        ["turns", "list", "--json"],
        ["turns", "show", turn["turn_id"]],
        ["turns", "show", turn["turn_id"], "--json"],
        ["turns", "thread", turn["thread"]],
        ["turns", "thread", turn["thread"], "--json"],
        ["turns", "show", "漢字"],
        ["dead-letter", "list"],
        ["dead-letter", "show", message_id, "--json"],
        ["mail", "inbox", "--all"],
        ["fetch", message_id],
        ["fetch", message_id, "--json"],
        ["watch", "--dry-run"],
    ):
        done = subprocess.run(
            [COMMAND, *words], cwd=desk.workdir, env={**os.environ, **locale}, capture_output=True, check=False
        )
        said = done.stdout + done.stderr
        for fault in (b"fault of agent-mailer", b"not UTF-8 text", b"Traceback"):
            assert fault not in said, (words, said)
        if "--json" in words:
            json.loads(done.stdout)


def test_turns_are_listed_and_shown(desk: Desk) -> None:
    assert at(desk, "turns", "list", "--json").json == {"turns": []}
    message_id = desk.send("secret body")
    desk.once()
    (row,) = at(desk, "turns", "list", "--json").json["turns"]
    assert (row["message_id"], row["outcome"], row["settled"], row["from"]) == (message_id, "done", True, "user")
    assert row["turn_id"] in at(desk, "turns", "list").out
    shown = at(desk, "turns", "show", row["turn_id"][:12], "--json").json["turn"]
    assert shown["sent"] == [{"id": desk.inbox()[0].envelope.id, "to": "user", "state": "delivered", "why": ""}]
    assert Path(shown["folder"]).is_dir()
    assert "outcome  done" in at(desk, "turns", "show", row["turn_id"]).out
    assert at(desk, "turns", "show", "nope").status == 1
    assert at(desk, "turns", "list", "--outcome", "failed", "--json").json == {"turns": []}
    assert at(desk, "turns", "list", "--outcome", "fine").status == 2
    assert at(desk, "turns", "list", "--limit", "0").status == 2


def test_fetch_reads_without_claiming(desk: Desk) -> None:
    message_id = desk.send("fetch me", subject="S")
    before = files_of(desk)
    done = at(desk, "fetch", message_id[-6:])
    assert (done.status, done.out.endswith("\n\nfetch me\n")) == (0, True), done
    assert files_of(desk) == before
    desk.once()
    assert at(desk, "fetch", message_id, "--json").json["message"]["body"] == "fetch me\n"
    assert at(desk, "fetch", "nope", "--json").json["error"]["code"] == "unknown"


def test_logs_from_the_end_filtered_and_across_rotation(desk: Desk) -> None:
    message_id = desk.send("x")
    desk.once()
    lines = (desk.state / "log.jsonl").read_text().splitlines()
    assert at(desk, "logs", "--json").out.splitlines() == lines
    assert at(desk, "logs", "--tail", "2", "--json").out.splitlines() == lines[-2:]
    (ended,) = at(desk, "logs", "--grep", '"event":"turn_end', "--json").out.splitlines()
    assert json.loads(ended)["message_id"] == message_id
    assert "turn ended" in at(desk, "logs").out
    (desk.state / "log.jsonl").rename(desk.state / "log.jsonl.1")
    (desk.state / "log.jsonl").write_text(
        '{"ts":"2020-01-01T00:00:00Z","event":"poll_inbox","total":3}\ngarbage \x1b[2J\n{"ts":5,"event":[]}\n'
    )
    screen = at(desk, "logs", "--tail", "4")
    assert screen.status == 0, screen
    assert "poll inbox" in screen.out
    assert "garbage \\x1b" in screen.out
    assert "\x1b" not in screen.out
    assert len(screen.out.splitlines()) == 4
    assert at(desk, "logs", "--grep", "(").status == 2
    assert at(desk, "logs", "--tail", "-1").status == 2


def test_logs_follow_what_is_written_and_rotated(desk: Desk) -> None:
    desk.once()
    log = desk.state / "log.jsonl"
    seen = desk.base / "seen"
    with seen.open("wb") as stream:
        following = subprocess.Popen(
            [COMMAND, "logs", "--tail", "0", "--follow", "--json"], cwd=desk.workdir, stdout=stream
        )
    try:
        number = iter(range(1000))

        def grown() -> bool:
            with log.open("a") as more:
                more.write(f'{{"ts":"2025-01-01T00:00:00Z","event":"x","n":{next(number)}}}\n')
            return b'"n":' in seen.read_bytes()

        until(grown, "a line that was appended")
        log.rename(log.with_name("log.jsonl.1"))
        log.write_text('{"ts":"2025-01-01T00:00:00Z","event":"after"}\n')
        until(lambda: b"after" in seen.read_bytes(), "a line of the next file")
    finally:
        following.terminate()
        following.wait(timeout=30)


@pytest.mark.parametrize("name", ["retries.json", "sessions.json", "pause.json", "usage.json", "dead_letter.jsonl"])
def test_looking_at_damaged_state_warns_and_leaves_it_for_the_watcher(desk: Desk, name: str) -> None:
    desk.once()
    (desk.state / name).write_bytes(b'{"torn": [\xff')
    before = files_of(desk)
    for words in (["status"], ["sessions", "list"], ["dead-letter", "list"], ["turns", "list"]):
        done = at(desk, *words)
        assert done.status == (1 if words == ["status"] else 0), done
        if words == ["status"] and name.endswith(".json") and name != "sessions.json":
            assert f"{name} cannot be read" in done.err
    assert files_of(desk) == before


def test_a_command_that_finds_damaged_retries_loses_none_of_them(desk: Desk) -> None:
    desk.configure(max_retries=5, retry={"first": 600, "longest": 600})
    desk.shell("cat >/dev/null; exit 1")
    desk.send("again")
    desk.once()
    assert len(at(desk, "status", "--json").json["retries"]) == 1
    (desk.state / "retries.json").write_bytes(b"{")
    assert at(desk, "pause").status == 0
    assert len(at(desk, "status", "--json").json["retries"]) == 1
    desk.once()
    assert list(desk.state.glob("retries.json.corrupt-*"))
    assert len(at(desk, "status", "--json").json["retries"]) == 1


def test_a_newer_format_is_left_untouched(desk: Desk) -> None:
    (desk.state / "format").write_text("99\n")
    before = files_of(desk)
    for words in (["status"], ["pause"], ["watch", "--once"], ["sessions", "list", "--json"]):
        assert at(desk, *words).status == 78
    assert files_of(desk) == before


def test_of_very_many_a_list_shows_the_newest_and_says_that_there_are_more(desk: Desk) -> None:
    state = desk.place().state
    with (desk.state / "dead_letter.jsonl").open("wb") as letters:
        for number in range(130):
            letter = DeadLetter(f"m-{number}", f"t-{number}", 3, "why", turn_id="t", outcome=Outcome.FAILED)
            letters.write(msgspec.json.encode(letter) + b"\n")
        # It died once more.
        letters.write(msgspec.json.encode(DeadLetter("m-0", "t-0", 3, "again", turn_id="t2")) + b"\n")
    for number in range(130):
        stamp = f"2026-11-20T00:{number // 60:02}:{number % 60:02}.000Z"
        assert state.sessions.put(f"t-{number}", SessionEntry(f"s-{number}", last_used_at=stamp, generation=1))
    shown = type_in(desk.workdir, "dead-letter", "list")
    rows = [line.split()[0] for line in shown.out.splitlines() if line.startswith("m-")]
    assert rows == [*(f"m-{number}" for number in range(31, 130)), "m-0"]
    assert "and more, which are older: --limit 0" in shown.out + shown.err
    assert len(type_in(desk.workdir, "dead-letter", "list", "--limit", "0").out.splitlines()) > 130
    assert len(type_in(desk.workdir, "dead-letter", "list", "--json").json["dead_letters"]) == 130
    assert len(type_in(desk.workdir, "dead-letter", "list", "--json", "--limit", "7").json["dead_letters"]) == 7
    listed = type_in(desk.workdir, "sessions", "list")
    rows = [line.split()[0] for line in listed.out.splitlines() if line.startswith("t-")]
    assert rows == [f"t-{number}" for number in range(30, 130)]
    assert "and 30 more, not used since: --limit 0" in listed.out + listed.err
    assert len(type_in(desk.workdir, "sessions", "list", "--json").json["sessions"]) == 130
    # Two of one moment stand among the newest as they stand in the whole.
    assert state.sessions.put("t-128", SessionEntry("s-128", last_used_at=stamp, generation=2))
    whole = list(sessions(desk.place().state))
    assert all(list(sessions(desk.place().state, some)) == whole[-some:] for some in (1, 2, 50))
