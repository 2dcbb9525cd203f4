"""The client towards providers."""
