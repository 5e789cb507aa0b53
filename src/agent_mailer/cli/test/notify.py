"""`test-notify`: one notice, now, by every way that `[notify]` names."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import typer

from agent_mailer.cli.options import Json, Workdir, configured
from agent_mailer.cli.terminal.commands import LightCommand, single
from agent_mailer.cli.terminal.printing import json_out, say
from agent_mailer.errors import ConfigFault, ExitCode

if TYPE_CHECKING:
    from agent_mailer.assemble import Workplace
    from agent_mailer.mailbox.port import Delivery

app = single()


@app.command("test-notify", cls=LightCommand)
def trial_of_notices(workdir: Workdir = None, as_json: Json = False) -> None:
    """Tell the operator something harmless, now, by the command and the address of [notify]."""
    import asyncio

    from agent_mailer.mailbox.port import Delivered

    place = configured(workdir)
    place.require_complete()
    if not place.policy().notify.channels:
        raise ConfigFault(
            "nobody_to_tell",
            "[notify] names neither a command nor an address",
            "agent-mailer config set notify.command …",
        )
    results = asyncio.run(_tell(place))
    told = all(isinstance(delivery, Delivered) for delivery in results.values())
    rows = [
        {
            "by": by,
            "told": isinstance(delivery, Delivered),
            "why": "" if isinstance(delivery, Delivered) else delivery.why,
        }
        for by, delivery in results.items()
    ]
    if as_json:
        json_out({"ok": told, "ways": rows})
    else:
        for row in rows:
            say(f"{row['by']}: {'told' if row['told'] else row['why']}")
    raise typer.Exit(ExitCode.OK if told else ExitCode.FAILED)


async def _tell(place: Workplace) -> dict[str, Delivery]:
    from agent_mailer.state.notices import Notice, NoticeKind
    from agent_mailer.watch.telling import Teller

    mailbox, policy = place.mailbox(), place.policy()
    notice = Notice(f"test-{secrets.token_hex(4)}", NoticeKind.TEST, place.clock.now(), "by_hand")
    teller = Teller(policy, mailbox)
    try:
        return {channel.value: await teller.tell(notice, channel) for channel in policy.notify.channels}
    finally:
        await mailbox.close()
