"""The two decorators that guard the routes."""
