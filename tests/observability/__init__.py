"""Records and the log."""
