"""Answers arrive where their mail came from: another session or project, a sender without a mailbox (SPEC 8.3)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.amq_tree import Project, folder, header, inbox, mailbox, new, write
from tests.desk import Desk, outcomes
from tests.sizes import LONG
from tests.typed import Typed, type_in

from agent_mailer.console.own.port import Letter
from agent_mailer.desk.looking import Looking
from agent_mailer.desk.mail import MailHere
from agent_mailer.events import EventName
from agent_mailer.mailbox.maildir.format import MAX_MESSAGE_BYTES
from agent_mailer.mailbox.maildir.layout import REQUIRED
from agent_mailer.mailbox.port import Automatic
from agent_mailer.people.port import MessageState
from agent_mailer.state.records import ItemState, TurnRecord
from agent_mailer.state.stuck import StuckKind
from agent_mailer.state.workdirs import remember
from agent_mailer.turn_tools.folder import MAIL


class Tree:
    """`coder` works in session `collab` of the project `shop`; `infra` is another project, and its peer."""

    def __init__(self, base: Path) -> None:
        base.chmod(0o755)
        self.shop = Project(base / "shop", "bob", "coder", name="shop", peers={"infra": "../infra/.agent-mail"})
        self.infra = Project(base / "infra", "bob", "ops", name="infra", peers={"shop": "../shop/.agent-mail"})
        self.desk = Desk(base / "desk")
        self.root = self.shop.collab
        self.desk.configure(maildir_root=str(self.root))

    def settle(self) -> TurnRecord:
        """One `watch --once` over one message; its turn as it is then."""
        events = self.desk.once()
        assert outcomes(events) == ["done"]
        [turn_id] = self.desk.place().state.turns.ids()
        record = self.desk.place().state.turns.load(turn_id)
        assert record is not None
        return record


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    folder(tmp_path / "desk")
    return Tree(tmp_path)


def states(record: TurnRecord) -> list[ItemState]:
    assert record.settlement is not None
    return [entry.state for entry in record.settlement.items]


def test_an_answer_goes_to_the_session_that_the_mail_names(tree: Tree) -> None:
    sent = write(tree.root, "coder", kind="question", thread="p2p/web:bob__collab:coder", reply_to="bob@web")
    record = tree.settle()
    assert states(record) == [ItemState.DELIVERED]
    assert inbox(tree.root, "bob") == []
    told = header(tree.shop.web, "bob")
    assert (told["from"], told["to"], told["kind"]) == ("coder", ["bob"], "answer")
    assert (told["thread"], told["refs"]) == ("p2p/web:bob__collab:coder", [sent])
    assert told["reply_to"] == "coder@collab"
    assert "reply_project" not in told
    assert "from_project" not in told
    [copy] = (tree.root / "agents/coder/outbox/sent").iterdir()
    assert copy.read_bytes() == next(new(tree.shop.web, "bob").iterdir()).read_bytes()


@pytest.mark.parametrize("session", ["collab", ""])
def test_an_answer_goes_to_the_project_that_the_mail_names(tree: Tree, session: str) -> None:
    place = tree.infra.collab if session else tree.infra.base
    back = "bob@collab" if session else "bob"
    write(tree.root, "coder", reply_to=back, reply_project="infra", from_project="infra")
    record = tree.settle()
    assert states(record) == [ItemState.DELIVERED]
    told = header(place, "bob")
    assert [told[name] for name in ("reply_to", "reply_project", "from_project")] == ["coder@collab", "shop", "shop"]
    assert list(told)[-3:] == ["reply_to", "reply_project", "from_project"]
    assert record.route is not None
    found = place.stat()
    assert (record.route.place, record.route.device, record.route.inode) == (str(place), found.st_dev, found.st_ino)


@pytest.mark.parametrize(
    ("place", "back"),
    [
        ("shop/.agent-mail/collab", {}),
        ("shop/.agent-mail/web", {"reply_to": "bob@web"}),
        ("infra/.agent-mail/collab", {"reply_to": "bob@collab", "reply_project": "infra"}),
    ],
)
def test_an_answer_from_a_page_goes_to_who_wrote_and_not_to_who_is_called_so_here(
    tree: Tree, tmp_path: Path, place: str, back: dict[str, str]
) -> None:
    asked = write(tree.root, "user", sender="bob", **back)
    MailHere(Looking([tree.desk.workdir])).send(Letter(["bob"], "Re: Plan", "The first.", "reply", parent=asked))
    roots = {path.parents[1].relative_to(tmp_path) for path in tmp_path.glob("*/.agent-mail/*/agents/bob")}
    got = {str(root): [message.refs for message in inbox(tmp_path / root, "bob")] for root in roots}
    assert {root: refs for root, refs in got.items() if refs} == {place: [(asked,)]}


@pytest.mark.parametrize("refused", [False, True])
def test_of_messages_that_share_a_turn_each_is_answered_where_it_came_from(tree: Tree, refused: bool) -> None:
    """Or hears there that what was written for it did not leave."""
    tree.desk.configure(batch_low=True)
    staged = '{"key":"k","action":"send","created":1700000000,"to":["stranger"],"body":"x","about":"%s"}'
    ids = "set -- $AGENT_MAILER_MESSAGE_IDS; cd $AGENT_MAILER_TURN_DIR/outbox"
    writes = f"{ids}; printf '{staged}' $2 >k.json" if refused else "echo done"
    tree.desk.shell(f"cat >/dev/null; cp $AGENT_MAILER_TURN_DIR/{MAIL} {tree.desk.base}; {writes}")
    backs: list[dict[str, Any]] = [{"reply_to": "bob@web"}, {"reply_to": "bob@collab", "reply_project": "infra"}]
    sent = [write(tree.root, "coder", thread="t", priority="low", **back) for back in backs]
    tree.settle()
    told = {contact["address"] for contact in json.loads((tree.desk.base / MAIL).read_text())["contacts"]}
    assert {"bob@web", "infra:bob@collab"} <= told
    got = [message for place in (tree.shop.web, tree.infra.collab) for message in inbox(place, "bob")]
    assert [message.refs[-1] for message in got] == sent[refused:]
    assert all(("could not be sent" in message.body) is refused for message in got)


def test_what_leaves_while_a_shared_turn_runs_goes_where_its_own_message_came_from(tree: Tree) -> None:
    tree.desk.configure(batch_low=True)
    news = '{"key":"k","action":"reply","created":1700000000,"body":"so far","about":"%s","at_once":true}'
    ids = "set -- $AGENT_MAILER_MESSAGE_IDS; cd $AGENT_MAILER_TURN_DIR/outbox"
    comes = f'for n in $(seq 500); do [ -n "$(ls {new(tree.infra.collab, "bob")})" ] && break; sleep 0.02; done'
    tree.desk.shell(f"cat >/dev/null; {ids}; printf '{news}' $2 >k.tmp; mv k.tmp k.json; {comes}; [ $n -lt 500 ]")
    write(tree.root, "coder", thread="t", priority="low", reply_to="bob@web")
    second = write(tree.root, "coder", thread="t", priority="low", reply_to="bob@collab", reply_project="infra")
    tree.settle()
    [told] = [one for one in inbox(tree.infra.collab, "bob") if one.body.strip() == "so far"]
    assert told.refs[-1] == second


def test_from_the_base_root_a_project_is_answered_under_the_bare_handle(tree: Tree) -> None:
    tree.desk.configure(maildir_root=str(tree.shop.base))
    write(tree.shop.base, "coder", reply_to="bob", reply_project="infra")
    tree.settle()
    told = header(tree.infra.base, "bob")
    assert [told[name] for name in ("reply_to", "reply_project", "from_project")] == ["coder", "shop", "shop"]


def test_a_sender_without_a_mailbox_gets_one_here_and_in_a_session_of_ours(tree: Tree) -> None:
    write(tree.root, "coder", sender="stranger")
    tree.settle()
    assert [message.body for message in inbox(tree.root, "stranger")] == ["done\n"]
    home = tree.root / "agents/stranger"
    assert {path.stat().st_mode & 0o777 for path in (home, *home.rglob("*")) if path.is_dir()} == {0o700}


def test_a_sender_without_a_mailbox_in_a_session_of_ours_gets_one(tree: Tree) -> None:
    write(tree.root, "coder", sender="stranger", reply_to="stranger@web")
    tree.settle()
    assert [message.body for message in inbox(tree.shop.web, "stranger")] == ["done\n"]
    assert not (tree.root / "agents/stranger").exists()


def test_one_way_back_is_for_one_sender_and_may_be_none_for_another(tree: Tree) -> None:
    """A mailbox is made for whoever wrote, not for whom he names."""
    lost = write(tree.root, "coder", sender="bob", reply_to="stranger@web", thread="one")
    write(tree.root, "coder", sender="stranger", reply_to="stranger@web", thread="two")
    assert outcomes(tree.desk.once()) == ["done"]
    assert tree.desk.place().state.stuck.get(StuckKind.NO_WAY_BACK, lost) is not None
    assert [message.body for message in inbox(tree.shop.web, "stranger")] == ["done\n"]


@pytest.mark.parametrize("way", ["session", "project"])
@pytest.mark.parametrize("fault", ["kind", "type", "size"])
@pytest.mark.parametrize("sender", ["bob", "coder"])
def test_who_wrote_from_elsewhere_what_cannot_be_read_is_told_there(
    tree: Tree, way: str, fault: str, sender: str
) -> None:
    """The way back is named in what can be read of it; who is called as we are is somebody else there."""
    fields: dict[str, object] = {"reply_to": f"{sender}@web"}
    place = tree.shop.web
    if way == "project":
        fields, place = {"reply_to": f"{sender}@collab", "reply_project": "infra"}, tree.infra.collab
    mailbox(place, sender)
    fields |= {"kind": {"kind": "poem"}, "type": {"labels": "no list"}, "size": {}}[fault]
    body = "y" * (MAX_MESSAGE_BYTES + 1) if fault == "size" else "Which one?"
    write(tree.root, "coder", sender=sender, body=body, **fields)
    assert outcomes(tree.desk.once()) == []
    assert outcomes(tree.desk.once()) == []
    [told] = inbox(place, sender)
    assert "was not worked on" in told.body
    assert told.envelope.automatic is Automatic.NOTICE
    assert inbox(tree.root, sender) == []
    [stuck] = tree.desk.place().state.stuck.all()
    assert stuck.kind is (StuckKind.TOO_LARGE if fault == "size" else StuckKind.UNREADABLE)


@pytest.mark.parametrize(("back", "answered"), [("coder@web", False), ("coder@collab", True), ("", True)])
def test_what_a_namesake_writes_into_the_thread_is_no_answer_of_ours(tree: Tree, back: str, answered: bool) -> None:
    """It comes to a third one while the turn runs."""
    fields: dict[str, Any] = {"reply_to": back} if back else {}
    aside = mailbox(tree.desk.base, "bob") / "inbox/new"
    write(tree.desk.base, "bob", sender="coder", thread="t", created="2099-01-01T00:00:00Z", **fields)
    [other] = aside.iterdir()
    tree.desk.shell(f"cat >/dev/null; mv {other} {tree.root}/agents/bob/inbox/new; echo our words")
    write(tree.root, "coder", sender="user", thread="t")
    tree.settle()
    assert [message.body for message in inbox(tree.root, "user")] == ([] if answered else ["our words\n"])


def test_what_cannot_be_read_and_names_no_way_makes_no_mailbox(tree: Tree) -> None:
    write(tree.root, "coder", sender="stranger", kind="poem")
    write(tree.root, "coder", kind="poem", reply_to="bob@nowhere")
    assert outcomes(tree.desk.once()) == []
    assert len(tree.desk.place().state.stuck.all()) == 2
    assert not (tree.root / "agents/stranger").exists()
    assert not (tree.shop.base / "nowhere").exists()
    assert inbox(tree.root, "bob") == []


def test_what_was_routed_is_known_again_there_and_not_delivered_twice(tree: Tree) -> None:
    """A settlement whose end was lost is applied again, when the answer was read over there already."""
    write(tree.root, "coder", reply_to="bob@collab", reply_project="infra")
    record = tree.settle()
    there = next(new(tree.infra.collab, "bob").iterdir())
    there.rename(there.parent.parent / "cur" / there.name)
    assert record.settlement is not None
    (tree.desk.state / "turns" / record.turn_id / "settled").unlink()
    items = tuple(
        msgspec.structs.replace(
            entry,
            state=ItemState.PENDING,
            item=msgspec.structs.replace(
                entry.item, payload=(tree.root / "agents/coder/outbox/sent" / there.name).read_text()
            ),
        )
        for entry in record.settlement.items
    )
    record.settlement = msgspec.structs.replace(record.settlement, items=items)
    tree.desk.place().state.turns.save(record)
    tree.desk.once()
    assert inbox(tree.infra.collab, "bob") == []
    assert len(list((tree.infra.collab / "agents/bob/inbox/cur").iterdir())) == 1


NOWHERE = {
    "a path": {"reply_to": "../x"},
    "no such session": {"reply_to": "bob@nowhere"},
    "not a session": {"reply_to": "bob@agents"},
    "two of them": {"reply_to": "bob@web@web"},
    "an empty session": {"reply_to": "bob@"},
    "a handle of 300 characters": {"reply_to": f"{'b' * 300}@web"},
    "a session of 300 characters": {"reply_to": f"bob@{'s' * 300}"},
    "a megabyte": {"reply_to": "b" * 1_000_000},
    "somebody else here, who has no mailbox": {"reply_to": "nobody"},
    "somebody else there, who has no mailbox": {"reply_to": "nobody@web"},
    "no such project": {"reply_to": "bob@collab", "reply_project": "moon"},
    "a project that is a path": {"reply_to": "bob", "reply_project": "../infra"},
    "nobody in the project": {"reply_to": "nobody@collab", "reply_project": "infra"},
    "no such session of the project": {"reply_to": "bob@moon", "reply_project": "infra"},
}


@pytest.mark.parametrize("name", NOWHERE)
def test_mail_that_names_a_way_back_to_nowhere_starts_no_turn_and_leaves_its_thread(tree: Tree, name: str) -> None:
    lost = write(tree.root, "coder", thread="t", **NOWHERE[name])
    write(tree.root, "coder", sender="bob", thread="t", body="and I?")
    before = sorted(path for path in tree.infra.base.rglob("*") if path.is_dir())
    events = tree.desk.once()
    assert outcomes(events) == ["done"]
    assert [message.body for message in inbox(tree.root, "bob")] == ["done\n"]
    stuck = tree.desk.place().state.stuck
    entry = stuck.get(StuckKind.NO_WAY_BACK, lost)
    assert entry is not None
    assert entry.why
    assert len(entry.why) < 1000
    assert (tree.root / "agents/coder/inbox/new" / f"{lost}.md").exists()
    assert sorted(path for path in tree.infra.base.rglob("*") if path.is_dir()) == before, "nothing made in a peer"
    assert outcomes(tree.desk.once()) == []


@pytest.mark.parametrize("kind", ["status", "answer", "review_response", "decision"])
def test_mail_that_wants_no_answer_is_worked_on_whatever_it_names(tree: Tree, kind: str) -> None:
    write(tree.root, "coder", reply_to="bob@nowhere", kind=kind)
    record = tree.settle()
    assert "nowhere" in record.no_way
    assert states(record) == [ItemState.REFUSED]
    assert record.settlement is not None
    assert record.settlement.items[0].why == record.no_way


PEERS: dict[str, Callable[[Path], object]] = {
    "a link": lambda place: _linked(place),
    "a session that is a link": lambda place: _linked(place / "collab"),
    "open to others": lambda place: place.chmod(0o777),
    "another user's": lambda place: os.chown(place, 12345, 12345),
    "below another user's folder": lambda place: os.chown(place.parent, 12345, 12345),
    "below a folder that is open to others": lambda place: place.parent.chmod(0o777),
    "an inbox that is a link": lambda place: _linked(place / "collab/agents/bob/inbox"),
    "an inbox that is another user's": lambda place: os.chown(place / "collab/agents/bob/inbox/new", 12345, 12345),
    "gone": lambda place: shutil.rmtree(place),
    "a file": lambda place: _a_file(place),
}


def _a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("{}")


def _linked(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.real"))
    path.symlink_to(f"{path.name}.real")


@pytest.mark.parametrize("what", PEERS)
def test_a_peer_that_is_not_surely_ours_gets_no_mail(tree: Tree, what: str) -> None:
    if "user's" in what and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    PEERS[what](tree.infra.base)
    lost = write(tree.root, "coder", reply_to="bob@collab", reply_project="infra")
    assert outcomes(tree.desk.once()) == []
    assert tree.desk.place().state.stuck.get(StuckKind.NO_WAY_BACK, lost) is not None


AMQRCS: dict[str, Any] = {
    "no JSON": "{",
    "a list": "[]",
    "peers that are a list": '{"root": ".agent-mail", "project": "shop", "peers": ["../infra/.agent-mail"]}',
    "a peer that is a number": '{"root": ".agent-mail", "project": "shop", "peers": {"infra": 7}}',
    "a peer with a NUL": '{"root": ".agent-mail", "project": "shop", "peers": {"infra": "a\\u0000b"}}',
    "another root's": '{"root": "elsewhere", "project": "shop", "peers": {"infra": "../infra/.agent-mail"}}',
    "nested": "[" * 60_000,
}


@pytest.mark.parametrize("what", AMQRCS)
def test_an_amqrc_that_names_no_peer_leads_nowhere_and_stops_nothing(tree: Tree, what: str) -> None:
    (tree.shop.top / ".amqrc").write_text(AMQRCS[what])
    lost = write(tree.root, "coder", reply_to="bob@collab", reply_project="infra")
    write(tree.root, "coder")
    assert outcomes(tree.desk.once()) == ["done"]
    assert tree.desk.place().state.stuck.get(StuckKind.NO_WAY_BACK, lost) is not None


def test_of_200_projects_the_one_that_is_meant_is_found(tree: Tree) -> None:
    peers = {f"p{number}": f"../p{number}/.agent-mail" for number in range(200)}
    tree.shop.amqrc("shop", peers | {"infra": "../infra/.agent-mail"})
    write(tree.root, "coder", reply_to="bob@collab", reply_project="infra")
    tree.settle()
    assert len(inbox(tree.infra.collab, "bob")) == 1
    lost = write(tree.root, "coder", reply_to="bob", reply_project="p200")
    tree.desk.once()
    entry = tree.desk.place().state.stuck.get(StuckKind.NO_WAY_BACK, lost)
    assert entry is not None
    assert "191 more" in entry.why


def test_a_roster_that_is_no_json_keeps_no_answer_back(tree: Tree) -> None:
    for project in (tree.shop, tree.infra):
        (project.base / "meta/config.json").write_text("{")
    write(tree.root, "coder", reply_to="bob@web")
    write(tree.root, "coder", reply_to="bob@collab", reply_project="infra")
    write(tree.root, "coder", sender="stranger")
    assert outcomes(tree.desk.once()) == ["done"] * 3
    assert [len(inbox(root, who)) for root, who in _ends(tree)] == [1, 1, 1]


def _ends(tree: Tree) -> list[tuple[Path, str]]:
    return [(tree.shop.web, "bob"), (tree.infra.collab, "bob"), (tree.root, "stranger")]


def test_a_peer_that_was_replaced_while_the_turn_ran_gets_nothing(tree: Tree) -> None:
    moved = tree.infra.base.with_name("moved")
    tree.desk.shell(f"cat >/dev/null; mv {tree.infra.base} {moved}; cp -a {moved} {tree.infra.base}; echo done")
    write(tree.root, "coder", reply_to="bob", reply_project="infra")
    record = tree.settle()
    assert states(record) == [ItemState.REFUSED]
    assert inbox(tree.infra.base, "bob") == inbox(moved, "bob") == []


def test_a_record_of_an_earlier_version_has_no_route_and_is_settled_as_before(tree: Tree) -> None:
    write(tree.root, "coder", reply_to="bob@web")
    record = tree.settle()
    plain = json.loads(msgspec.json.encode(record))
    del plain["route"]
    old = msgspec.json.decode(json.dumps(plain), type=TurnRecord)
    assert (old.route, old.no_way) == (None, "")


STAGED = """cat >/dev/null
{cli} mail reply --body 'the answer' >{out} 2>&1; echo "status $?" >>{out}
"""


def _agent_replies(tree: Tree) -> str:
    out = tree.desk.base / "told"
    tree.desk.shell(STAGED.format(cli="agent-mailer", out=out))
    tree.settle()
    return out.read_text()


def test_the_agent_hears_at_once_that_no_answer_can_be_delivered(tree: Tree) -> None:
    write(tree.root, "coder", reply_to="bob@nowhere", kind="status")
    told = _agent_replies(tree)
    assert "there is no session 'nowhere'" in told
    assert "staged" not in told
    assert "status 2" in told


def test_the_agent_answers_across_and_hears_staged(tree: Tree) -> None:
    write(tree.root, "coder", reply_to="bob@web", kind="status")
    told = _agent_replies(tree)
    assert "staged" in told
    assert [message.body for message in inbox(tree.shop.web, "bob")] == ["the answer\n"]


def test_a_typing_error_makes_no_mailbox_and_is_refused_at_once(tree: Tree) -> None:
    out = tree.desk.base / "told"
    lines = ["cat >/dev/null"]
    for address in ("bbo", "bob@wbe", "stranger", "bob@web"):
        lines.append(f"agent-mailer send --to {address} --subject s --body b >>{out} 2>&1; echo $? >>{out}")
    tree.desk.shell("\n".join(lines))
    write(tree.root, "coder", sender="stranger", reply_to="stranger@web")
    record = tree.settle()
    assert [line for line in out.read_text().splitlines() if line in ("0", "2")] == ["2", "2", "0", "2"]
    assert states(record) == [ItemState.DELIVERED]
    assert len(inbox(tree.shop.web, "stranger")) == 1
    made = {path.name for root in (tree.root, tree.shop.web) for path in (root / "agents").iterdir()}
    assert made == {"bob", "coder", "user", "stranger"}


def _no_folder(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("x")


@pytest.mark.parametrize("length", [201, 250, 300])
def test_a_sender_whom_no_mailbox_can_be_called_after_costs_no_turn(tree: Tree, length: int) -> None:
    handle = "b" * length
    if length < 255:
        folders = [tree.root / "agents" / handle / leaf for leaf in REQUIRED]
        for path in folders:
            path.mkdir(parents=True, exist_ok=True)
    lost = write(tree.root, "coder", sender=handle, thread="t")
    write(tree.root, "coder", sender="bob", thread="t")
    assert outcomes(tree.desk.once()) == ["done"], "its thread goes on"
    entry = tree.desk.place().state.stuck.get(StuckKind.NO_WAY_BACK, lost)
    assert entry is not None
    assert "it has more than 200 characters" in entry.why


@LONG
def test_a_sender_whose_mailbox_is_none_costs_no_turn_until_it_is_mended(tree: Tree) -> None:
    _no_folder(tree.root / "agents/odd/inbox")
    sent = write(tree.root, "coder", sender="odd")
    plan = type_in(tree.desk.workdir, "watch", "--dry-run").out
    assert f"would leave lying: {sent}" in plan
    assert "0 ready" in plan
    assert outcomes(tree.desk.once()) == []
    assert _stuck(tree, "list", "--json").json["stuck"][0]["reason"] == "no-way-back"
    (tree.root / "agents/odd/inbox").unlink()
    mailbox(tree.root, "odd")
    assert _stuck(tree, "retry", sent).status == 0
    tree.settle()
    assert len(inbox(tree.root, "odd")) == 1


def test_a_handle_of_300_characters_is_told_to_the_agent_and_stops_nothing(tree: Tree) -> None:
    write(tree.root, "coder", sender="b" * 300, kind="status")
    told = _agent_replies(tree)
    assert "staged" not in told
    assert "status 2" in told


def test_the_mail_says_which_way_back_it_names(tree: Tree) -> None:
    out = tree.desk.base / "told"
    shown = ("agent-mailer mail read --json", "agent-mailer mail read", "cat $AGENT_MAILER_TURN_DIR/message.md")
    tree.desk.shell("cat >/dev/null\n" + "\n".join(f"{command} >>{out}" for command in shown))
    write(tree.root, "coder", reply_to="bob@collab", reply_project="infra", from_project="infra")
    tree.settle()
    text = out.read_text()
    message = json.loads(text[: text.index("\n}") + 2])["message"]
    assert [message[name] for name in ("reply_to", "reply_project", "from_project")] == ["bob@collab", "infra", "infra"]
    assert text.count("Reply-To: bob@collab\nReply-Project: infra\nFrom-Project: infra\n") == 2


def _stuck(tree: Tree, *words: str) -> Typed:
    return type_in(tree.desk.workdir, "stuck", *words)


def test_mail_without_a_way_back_is_taken_up_when_there_is_one(tree: Tree) -> None:
    lost = write(tree.root, "coder", reply_to="bob@nowhere")
    plan = type_in(tree.desk.workdir, "watch", "--dry-run")
    assert "no way back: there is no session 'nowhere'" in plan.out
    events = [event.event for event in tree.desk.once()]
    assert EventName.MESSAGE_STUCK in events
    assert EventName.TURN_CLAIMED not in events
    [row] = _stuck(tree, "list", "--json").json["stuck"]
    assert (row["reason"], row["message_id"]) == ("no-way-back", lost)
    assert _stuck(tree, "retry", lost).status == 0
    assert outcomes(tree.desk.once()) == [], "there is none yet"
    mailbox(tree.shop.session("nowhere"), "bob")
    assert outcomes(tree.desk.once()) == []
    assert _stuck(tree, "retry", lost).status == 0
    tree.settle()
    assert len(inbox(tree.shop.base / "nowhere", "bob")) == 1
    assert _stuck(tree, "list", "--json").json["stuck"] == []


def test_an_answer_that_was_refused_on_its_way_is_sent_again_once(tree: Tree) -> None:
    moved = tree.infra.base.with_name("moved")
    tree.desk.shell(f"cat >/dev/null; mv {tree.infra.base} {moved}; cp -a {moved} {tree.infra.base}; echo done")
    write(tree.root, "coder", reply_to="bob", reply_project="infra")
    record = tree.settle()
    [row] = _stuck(tree, "list", "--json").json["stuck"]
    assert row["reason"] == "not-sent"
    assert "another folder" in row["why"]
    for _ in range(2):
        _stuck(tree, "retry", "--all")
        tree.desk.once()
    [answer] = inbox(tree.infra.base, "bob")
    assert record.settlement is not None
    assert answer.envelope.id == record.settlement.items[0].item.id, "under its first key"
    assert _stuck(tree, "list", "--json").json["stuck"] == []


def test_an_answer_for_which_there_was_no_way_leaves_when_there_is_one(tree: Tree) -> None:
    write(tree.root, "coder", reply_to="bob@nowhere", kind="status")
    tree.settle()
    [row] = _stuck(tree, "list", "--json").json["stuck"]
    assert row["reason"] == "not-sent"
    mailbox(tree.shop.session("nowhere"), "bob")
    _stuck(tree, "retry", "--all")
    tree.desk.once()
    assert header(tree.shop.base / "nowhere", "bob")["reply_to"] == "coder@collab"


def test_the_agents_namesake_in_another_session_is_answered_there(tree: Tree) -> None:
    write(tree.root, "coder", sender="coder", reply_to="coder@web")
    tree.settle()
    assert len(inbox(tree.shop.web, "coder")) == 1
    assert inbox(tree.root, "coder") == []


def _people(tree: Tree, *words: str) -> Typed:
    return type_in(tree.shop.top, *words, env={"AM_ROOT": str(tree.root)})


def test_a_person_answers_across_and_waits_for_the_answer(tree: Tree) -> None:
    asked = write(tree.root, "user", reply_to="bob@collab", reply_project="infra")
    done = _people(tree, "mail", "reply", asked, "--body", "this one")
    assert done.status == 0, done.err
    told = header(tree.infra.collab, "bob")
    assert [told[name] for name in ("reply_to", "reply_project", "from_project")] == ["user@collab", "shop", "shop"]


ADDRESSES = {
    "bob@web": ("shop", "web", "p2p/collab:user__web:bob"),
    "infra:bob@collab": ("infra", "collab", "p2p/shop:collab:user__infra:collab:bob"),
    "bob@infra:collab": ("infra", "collab", "p2p/shop:collab:user__infra:collab:bob"),
    "bob@infra": ("infra", "collab", "p2p/shop:collab:user__infra:collab:bob"),
    "bob@infra:": ("infra", "", "p2p/shop:collab:user__infra:bob"),
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_person_writes_to_a_session_or_project_as_amq_does(tree: Tree, address: str) -> None:
    project, session, thread = ADDRESSES[address]
    place = getattr(tree, project).base / session
    done = _people(tree, "send", "--to", address, "--body", "hello")
    assert done.status == 0, done.err
    told = header(place, "bob")
    assert (told["thread"], told["to"], told["reply_to"]) == (thread, ["bob"], "user@collab")
    wrong = _people(tree, "send", "--to", "nobody@infra:collab", "--body", "hello")
    assert (wrong.status, wrong.out) == (2, "")
    assert "has no mailbox for 'nobody'" in wrong.err


@pytest.mark.parametrize("address", ["coder@collab", "shop:coder@collab"])
def test_how_mail_from_elsewhere_stands_is_seen_in_the_workdir_that_has_it(tree: Tree, address: str) -> None:
    """What `send --wait` and `mail receipts` say of it is what they say of mail in one's own root."""
    remember(tree.desk.workdir)
    root = tree.infra.collab if ":" in address else tree.shop.web

    def at(*words: str) -> Typed:
        return type_in(tree.desk.base, *words, "--maildir-root", root, "--json")

    sent = at("send", "--as", "bob", "--to", address, "--body", "x", "--wait", "0").json
    assert (sent["end"], sent["standing"][address]["state"]) == ("timeout", MessageState.STOPPED.value)
    [told] = at("mail", "receipts", sent["id"], "--as", "bob").json["receipts"]
    assert told["stage"] is None
    tree.settle()
    [told] = at("mail", "receipts", sent["id"], "--as", "bob").json["receipts"]
    assert (told["recipient"], told["stage"]) == ("coder", "drained")
