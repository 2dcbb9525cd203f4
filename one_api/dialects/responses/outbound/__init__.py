"""The Responses dialect towards upstreams that speak it."""
