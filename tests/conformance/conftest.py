"""Conversations with the proxy in the middle, one assertion each; in the end nothing may be left over."""

from __future__ import annotations

from tests.proxy.conftest import book

__all__ = ["book"]
