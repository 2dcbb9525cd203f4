"""Messages served over other dialects."""
