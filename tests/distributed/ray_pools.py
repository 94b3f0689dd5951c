"""Pools of Ray workers that a test has made: those that are still here are closed after it."""

from __future__ import annotations

from typing import Any

POOLS: list[Any] = []
