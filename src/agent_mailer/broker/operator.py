"""The mailbox of the person behind the agents."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
