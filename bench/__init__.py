"""Measurements of the real gateway over loopback: `make bench` (speed and cost) and `make soak` (what is left over).

Every part is a process of its own: a scripted upstream, the gateway under its real gunicorn, a load generator.
"""
