"""Fixtures for all tests."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Berth runs on asyncio alone."""
    return "asyncio"
