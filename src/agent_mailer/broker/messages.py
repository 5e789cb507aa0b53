"""The messages' routes: send, inbox, thread, marks."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
