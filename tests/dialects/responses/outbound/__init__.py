"""The Responses dialect towards upstreams."""
