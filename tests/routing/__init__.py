"""Choosing, failing over, resuming."""
