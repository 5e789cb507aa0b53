"""Which address an agent gets at a broker, and which of those there is meant."""

from __future__ import annotations

import pytest

from agent_mailer.errors import ConfigFault
from agent_mailer.mailbox.amp.client import AgentInfo
from agent_mailer.setup.registering import Wish, _complete, _find


@pytest.mark.parametrize(
    ("known", "address"),
    [
        ((), ""),
        (("planner@ann.amp.example", "tester@ann.amp.example"), "coder@ann.amp.example"),
        (("planner@ann.amp.example", "tester@ann.old.example"), ""),
        (("planner",), ""),
    ],
)
def test_an_address_is_completed_only_where_all_agents_have_one_domain(known: tuple[str, ...], address: str) -> None:
    """A broker that has moved keeps the addresses that its agents had; which domain is its own it knows best."""
    agents = [AgentInfo(str(number), one) for number, one in enumerate(known)]
    assert {_complete("coder", order) for order in (agents, agents[::-1])} == {address}


def test_one_name_in_two_domains_is_nobody_until_it_is_whole() -> None:
    agents = [AgentInfo("1", "coder@ann.amp.example"), AgentInfo("2", "coder@ann.old.example")]
    with pytest.raises(ConfigFault, match=r"could be coder@ann\.amp\.example, coder@ann\.old\.example"):
        _find(Wish(address="coder"), agents)
    assert _find(Wish(address="coder@ann.old.example"), agents) == agents[1]
    assert _find(Wish(fallback="tester"), agents) is None


def test_who_is_only_called_nearly_so_is_another() -> None:
    others = [AgentInfo(str(number), f"{name}@ann.amp.example") for number, name in enumerate(["coder-2", "a-coder"])]
    assert _find(Wish(address="coder"), others) is None
    assert _find(Wish(fallback="coder"), others) is None
    coder = AgentInfo("3", "coder@ann.amp.example")
    assert _find(Wish(address="coder"), [*others, coder]) == coder
