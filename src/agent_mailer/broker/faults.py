"""What the broker refuses, as the protocol says it: a status and `{"detail": ...}`."""

from __future__ import annotations

from collections.abc import Mapping


class Fault(Exception):
    """A refusal. `extra` joins `detail` in the body; `headers` go with the answer."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})
