"""A Redis of our own, that may be frozen, broken and killed."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from tests.limits.conftest import OwnRedis, odd_redis, own_redis

__all__ = ["OwnRedis", "odd_redis", "own_redis"]


@pytest.fixture
async def operator(own_redis: OwnRedis) -> AsyncIterator[Any]:
    """The operator's own client."""
    client: Any = redis.asyncio.Redis.from_url(own_redis[0])
    yield client
    await client.aclose()
