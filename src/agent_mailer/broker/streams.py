"""Arrivals as server-sent events, and the one watcher of an agent."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
