"""What a broker's refusals are to somebody who typed a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agent_mailer.errors import MailerError, RefusedFault, UnavailableFault
from agent_mailer.mailbox.amp.answers import RequestRefused
from agent_mailer.mailbox.port import MailboxRefused, MailboxUnavailable


@contextmanager
def at_broker(refused_fix: str = "") -> Iterator[None]:
    """Raises RefusedFault (77), UnavailableFault (69) or MailerError (1) for what a broker says no to."""
    try:
        yield
    except MailboxRefused as fault:
        raise RefusedFault(fault.code, fault.message, fault.fix) from None
    except MailboxUnavailable as fault:
        raise UnavailableFault(fault.code, fault.message, fault.fix) from None
    except RequestRefused as fault:
        raise MailerError(fault.code, fault.message, fault.fix or refused_fix) from None
