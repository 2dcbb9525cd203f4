"""Which models there are, where they are served, and how a request is tried there."""
