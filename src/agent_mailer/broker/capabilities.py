"""What this broker can do beyond the protocol."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
