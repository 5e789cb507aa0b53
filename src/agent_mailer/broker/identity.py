"""Whether a caller may act as the agent that it names."""

from __future__ import annotations

from fastapi import Request

from agent_mailer.broker.callers import AgentCaller, AgentRow, directory_of
from agent_mailer.broker.faults import Fault


async def owned_inbox(request: Request, caller: AgentCaller, agent_id: str, address: str) -> AgentRow:
    """The agent `agent_id`, which has that address. Raises Fault 404 (unknown, or of another user), 403."""
    agent = await directory_of(request).agent(agent_id)
    if agent is None or agent.user_id != caller.user_id:
        raise Fault(404, f"Agent '{agent_id[:200]}' not found")
    if agent.address != address:
        raise Fault(403, f"Agent '{agent_id[:200]}' does not own address '{address[:200]}'")
    if not caller.may_act_as(agent.id):
        raise Fault(403, "This API key acts for another agent only")
    return agent
