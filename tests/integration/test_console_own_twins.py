"""The console of one machine over agents that are called the same, each in a mailbox of its own."""

from __future__ import annotations

import re
from pathlib import Path

from tests.desk import Desk
from tests.own_console import own_console
from tests.sizes import LONG


@LONG
def test_a_question_is_answered_in_the_mailbox_of_the_agent_that_asks(tmp_path: Path) -> None:
    desks = []
    for name in ("the shop, old", "other"):
        (tmp_path / name).mkdir()
        desks.append(Desk(tmp_path / name))
    for desk in desks:
        # The folder of the agent tells them apart.
        named = desk.base / f"agent of {desk.base.name}"
        desk.workdir.rename(named)
        desk.workdir, desk.state = named, named / ".agent-mailer"
        desk.configure()
    asks = desks[0]
    asks.shell("agent-mailer mail finish --blocked 'Tabs or blanks?'")
    asks.send("indent it", subject="Indent", thread="th-indent")
    asks.once()
    with own_console(*(desk.workdir for desk in desks)) as console:
        console.enter()
        page = console.get("/console/needs").text
        [row] = [row for row in page.split('<li class="need"') if "Tabs or blanks?" in row]
        [need] = re.findall(r'name="need" value="([^"]*)"', row)
        form = {"need": need, "key": "aabbccddeeff0011", "subject": "Re: Indent", "body": "Blanks"}
        answered = console.post("/console/needs/answer", **form)
        assert answered.status_code == 303, answered.text
        found = [[one.body.strip() for one in desk.inbox("coder")][-1:] for desk in desks]
        assert found == [["Blanks"], []]
        # The names that are offered can be typed.
        offered = re.findall(r'<option value="(coder@[^"]*)"', console.get("/console/compose").text)
        assert offered == ["coder@agent_of_other", "coder@agent_of_the_shop__old"]
        for to in offered:
            sent = console.post("/console/send", to=to, subject="Hello", body=to, action="send", key="")
            assert sent.status_code == 303, sent.text
        assert [desk.inbox("coder")[-1].body.strip() for desk in desks] == list(reversed(offered))
        nobody = console.post("/console/send", to=" , ", subject="x", body="my long text", action="send")
        assert (nobody.status_code, 'name="body"' in nobody.text, "my long text" in nobody.text) == (422, True, True)
        # Whoever's mail is elsewhere is not answered from here.
        asks.configure(mailbox="amp", broker_url="http://127.0.0.1:9", agent_id="a-1", api_key="k-1")
        page = console.get("/console/needs").text
        assert ("Tabs or blanks?" in page, "answer it where its mail is" in page, "needs/answer" in page) == (
            True,
            True,
            False,
        )
