"""How requests reach Flask: one event loop per process, and the bridge between it and synchronous code."""
