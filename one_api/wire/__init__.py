"""Formats on the wire: pure functions and small state machines, no I/O and no clock."""
