"""A Redis of our own, that may be frozen, broken and killed."""

from tests.limits.conftest import OwnRedis, own_redis

__all__ = ["OwnRedis", "own_redis"]
