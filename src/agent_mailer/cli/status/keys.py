"""The board with keys, by Textual (extra `tui`): what needs a person is chosen and answered where it is seen.

A key does what a command does, by that command, whose words it shows.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import msgspec
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, Static
from textual.worker import get_current_worker

from agent_mailer.cli.status.board import (
    EVERY,
    head,
    is_low,
    last_column,
    moved_text,
    need_text,
    need_words,
    needing,
    shares,
    whole,
)
from agent_mailer.cli.status.many import HEAD, cells_of, resting
from agent_mailer.cli.terminal.screen import fit, plain, wrapped
from agent_mailer.names import printable
from agent_mailer.process.commands import run_command, run_in_terminal
from agent_mailer.service.install import own_program
from agent_mailer.views.board import Board
from agent_mailer.views.values.needs import BoardView, NeedKind, NeedView
from agent_mailer.views.values.status import FaultView, StatusView

SAID = 3
"""So many rows has what a key has said."""


def show(board: Board) -> None:
    """Until q or Ctrl-C."""
    try:
        _Screen(board).run()
    finally:
        board.close()


class _Screen(App[None]):
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { overflow: hidden; }
    #head { height: 1; }
    #agents { height: auto; }
    #needs { height: auto; margin-top: 1; }
    #mail { height: 1fr; margin-top: 1; color: $text-muted; }
    .low #needs, .low #mail { margin-top: 0; }
    .low #agents { scrollbar-size-horizontal: 0; }
    #said { height: auto; max-height: 3; display: none; }
    #answer { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "allow", "allow"),
        Binding("d", "deny", "deny"),
        Binding("r", "answer", "answer"),
        Binding("p", "pause", "pause/resume"),
        Binding("t", "transcript", "transcript"),
        Binding("q,ctrl+c", "quit", "leave"),
        Binding("escape", "nothing", "back", show=False),
    ]

    def __init__(self, board: Board) -> None:
        super().__init__()
        self._board = board
        self._shown: BoardView | None = None
        self._answering: NeedView | None = None

    def compose(self) -> ComposeResult:
        yield Static("…", id="head")
        yield DataTable(id="agents", cursor_type="row", zebra_stripes=False)
        yield Static("", id="needs")
        yield Static("", id="mail")
        yield Static("", id="said")
        yield Input(id="answer", placeholder="the answer; Enter sends it, Escape leaves it")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.theme = "textual-ansi" if "textual-ansi" in self.available_themes else self.theme
        self._look()
        self.set_interval(EVERY, self._look)

    @work(thread=True, exclusive=True, group="look")
    def _look(self) -> None:
        """Beside the screen: a disk that is slow keeps no key waiting."""
        found = self._board.look()
        if not get_current_worker().is_cancelled:
            self.call_from_thread(self._draw, found)

    def _draw(self, board: BoardView) -> None:
        chosen = self._chosen()
        before, self._shown = self._shown, board
        if before is not None and before.needs != board.needs:
            self._say("")
        self._put("head", [head(board, self.size.width)])
        table = self.query_one(DataTable)
        last = last_column(self.size.width)
        # Who was chosen stays so wherever he stands now: a key is for an agent, not for a row.
        own = [number for number, view in enumerate(board.workdirs) if chosen and view.workdir == chosen.workdir]
        at = own[0] if own else table.cursor_row
        rows = [cells_of(view)[:last] for view in board.workdirs]
        if before is None or len(table.columns) != len(HEAD[:last]) or len(rows) != table.row_count:
            table.clear(columns=True)
            table.add_columns(*HEAD[:last])
            for row in rows:
                table.add_row(*map(_of, row))
        else:
            for number, row in enumerate(rows):
                for column, cell in enumerate(row):
                    if str(table.get_cell_at((number, column))) != str(_of(cell)):  # type: ignore[arg-type]
                        table.update_cell_at((number, column), _of(cell), update_width=True)  # type: ignore[arg-type]
        if at != table.cursor_row:
            table.move_cursor(row=at)
        self._share(board)

    def _share(self, board: BoardView) -> None:
        """Each part has something of the height, and says how much more there is."""
        wide, low, table = self.size.width, is_low(self.size.height), self.query_one(DataTable)
        needs = needing(board, wide, low=low, text_of=_need_text)
        rest = [line for one in resting(board.workdirs) for line in wrapped(one, wide) if not (low and needs)]
        moved = [moved_text(one) for one in reversed(board.mail[-60:])]
        mail = ([fit(one, wide) for one in moved] if low else ["MAIL", *moved]) if moved else []
        wanted = [len(board.workdirs) + (not low), sum(map(len, needs)), len(mail)]
        gaps = 0 if low else bool(needs or rest) + bool(mail)
        around = 2 + len(rest) + gaps + self.query_one("#said", Static).display * SAID
        most = shares(self.size.height - around, wanted)
        self.screen.set_class(low, "low")
        table.show_header = not low
        table.styles.max_height = max(1, most[0])
        if not table.size.height:
            # Now and then it is filled before it has its place, and nothing gives it one afterwards.
            table.refresh(layout=True)
        self._put("needs", [*rest, *whole(needs, most[1])])
        self._put("mail", mail)

    def on_resize(self) -> None:
        if self._shown is not None:
            self._draw(self._shown)

    def _put(self, name: str, lines: Sequence[str]) -> None:
        """Changed only where it differs: an idle board draws nothing."""
        place, text = self.query_one(f"#{name}", Static), "\n".join(lines)
        if getattr(place, "told", None) != text:
            place.told = text  # type: ignore[attr-defined]
            place.display = bool(text) or name == "mail"
            place.update(_of(text))

    def _chosen(self) -> StatusView | FaultView | None:
        row = self.query_one(DataTable).cursor_row
        views = self._shown.workdirs if self._shown is not None else ()
        return views[row] if 0 <= row < len(views) else None

    def _need(self, kind: NeedKind) -> NeedView | None:
        """Of the chosen agent, else the first of all."""
        if self._shown is None:
            return None
        chosen = self._chosen()
        found = [need for need in self._shown.needs if need.kind is kind]
        own = [need for need in found if chosen is not None and need.agent_id == chosen.workdir]
        return next(iter(own or found), None)

    def action_allow(self) -> None:
        self._decide("approve")

    def action_deny(self) -> None:
        self._decide("deny")

    def _decide(self, verb: str) -> None:
        need = self._need(NeedKind.APPROVAL)
        code = _code_of(need) if need is not None else ""
        if need is None or not code:
            self._say("nobody asks for anything")
        else:
            # It is shown whole before: what is allowed is read first, in the terminal and not in a line of ours.
            self._beside(("approvals", "show", code, "-C", need.agent_id), (verb, code, "-C", need.agent_id))

    def action_answer(self) -> None:
        self._answering = self._need(NeedKind.QUESTION)
        if self._answering is None:
            self._say("no question waits")
            return
        self._say(f"{self._answering.address} {need_words(self._answering)}")
        field = self.query_one(Input)
        field.display = True
        field.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        need, text = self._answering, event.value.strip()
        self.action_nothing()
        if need is not None and text:
            to = ("--to", need.address, "--thread", need.thread, "--body", text)
            self._run("send", "-C", need.agent_id, *to)

    def action_nothing(self) -> None:
        field = self.query_one(Input)
        field.value, field.display, self._answering = "", False, None
        self.query_one(DataTable).focus()

    def action_pause(self) -> None:
        view = self._chosen()
        if isinstance(view, StatusView):
            self._run("resume" if view.pause is not None else "pause", "-C", view.workdir)

    def action_transcript(self) -> None:
        view = self._chosen()
        turn = self._turn_of(view)
        if view is None or not turn:
            self._say("it has had no turn yet")
        else:
            self._beside(("turns", "thread", turn, "-C", view.workdir))

    def _turn_of(self, view: StatusView | FaultView | None) -> str:
        """The thread that it works at, else at which it worked last."""
        if not isinstance(view, StatusView):
            return ""
        if view.running:
            return view.running[0].thread
        moved = [one for one in (self._shown.mail if self._shown is not None else ()) if one.thread]
        own = [one for one in moved if view.mailbox.address in (one.sender, one.to)]
        return own[-1].thread if own else ""

    @work(thread=True, exclusive=True, group="run")
    def _run(self, *words: str) -> None:
        done = run_command((_program(), *words), env=os.environ, cwd=Path.home())
        said = " ".join(done.output.split())
        shown = f"agent-mailer {shlex.join(words)}: {printable(said, 300) or 'done'}"
        self.call_from_thread(self._say, shown)

    def _beside(self, *commands: Sequence[str]) -> None:
        """On the terminal itself, with Enter after each: to go on, or by Ctrl-C not to."""
        with self.suspend(), _ctrl_c_here():
            for number, words in enumerate(commands):
                run_in_terminal((_program(), *words))
                last = number == len(commands) - 1
                ends = "Enter goes back" if last else f"Enter: {commands[number + 1][0]}; Ctrl-C: leave it"
                try:
                    input(f"\n{ends} ")
                except (KeyboardInterrupt, EOFError):
                    break
        self.refresh()

    def _say(self, text: str) -> None:
        self._put("said", [text])


@contextmanager
def _ctrl_c_here() -> Iterator[None]:
    """Ctrl-C is for what stands on the terminal; the loop, which would take it for its own end, does not hear of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _code_of(need: NeedView) -> str:
    """What answers it; empty where it waits no more. No view of an agent has it, only a person's own look."""
    from agent_mailer.assemble import Workplace
    from agent_mailer.views.kept import approvals

    found = [view for view in approvals(Workplace(Path(need.agent_id)).state) if view.question in need.targets]
    return found[0].code if found else ""


def _need_text(need: NeedView) -> str:
    """With the key that ends it, where one does; else with the command."""
    keys = {NeedKind.QUESTION: "r", NeedKind.APPROVAL: "a, d", NeedKind.PAUSED: "p"}.get(need.kind)
    return f"{need_text(msgspec.structs.replace(need, command=''))} ({keys})" if keys else need_text(need)


def _program() -> str:
    return str(own_program(os.environ.get("PATH", os.defpath)))


def _of(text: str) -> Text:
    return Text.from_ansi(plain(text, sys.__stdout__))
