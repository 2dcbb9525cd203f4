"""Real clients against the real gateway; `make check-clients` fetches them from their registries and runs them.

The files are called `check_*.py`, so that `make test`, which needs no network, leaves them alone.
"""
