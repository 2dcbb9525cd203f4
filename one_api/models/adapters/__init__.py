"""One module for each kind of upstream."""
