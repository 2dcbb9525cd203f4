"""The id and the time that an answer gets where its upstream gives it none."""

import random
import time

from one_api.dialects.openai.response import Identity


def new_identity(model: str, prefix: str = "chatcmpl") -> Identity:
    """Return a new id, which begins with ``prefix``, and the time now, for an answer of ``model``."""
    return Identity(f"{prefix}-{random.getrandbits(128):032x}", int(time.time()), model)
