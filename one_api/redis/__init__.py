"""The one connection to Redis."""
