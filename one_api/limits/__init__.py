"""Limits per key: the arithmetic, and where the counts are kept.

``window`` is the arithmetic; ``stores`` keeps windows in this process, ``shared`` in a file for one machine, ``redis``
in Redis for several. ``storage`` is all of it in the words of the ``limits`` library. It knows no request and no
route: that is ``utils.rate_limit``.
"""
