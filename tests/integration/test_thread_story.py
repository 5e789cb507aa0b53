"""The story of a thread whose mail is at a broker, which may be away when somebody asks."""

from __future__ import annotations

from pathlib import Path

from tests.broker_desk import running_broker
from tests.desk import until
from tests.integration.test_amp_watch import AmpDesk
from tests.sizes import LONG
from tests.typed import type_in

from agent_mailer.events import EventName

COMMANDS = (("turns", "thread"), ("sessions", "show"))


@LONG
def test_a_broker_that_is_gone_only_lacks_its_part(tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker:
        desk = AmpDesk(tmp_path, broker, broker.person("someone"))
        desk.configure(command_output="jsonl")
        desk.script({"emit": {"type": "session", "id": "s-1"}}, {"emit": {"type": "result", "text": "yes"}})
        sent = desk.mail("a body that nobody may see here")
        with desk.watching():
            until(lambda: desk.log(EventName.TURN_SETTLED), "the end of the turn")
        (turn,) = type_in(desk.workdir, "turns", "list", "--json").json["turns"]
        for words in COMMANDS:
            shown = type_in(desk.workdir, *words, turn["thread"])
            assert (shown.status, shown.err) == (0, "")
            for word in ("task", "Re: task", "done", str(sent["id"])):
                assert word in shown.out
            assert "body" not in shown.out
    for words in COMMANDS:
        shown = type_in(desk.workdir, *words, turn["thread"])
        assert shown.status == 0
        assert "done" in shown.out
        assert "its messages cannot be listed" in shown.err
