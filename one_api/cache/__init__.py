"""Answers that are kept, and answers that are shared: the response cache and single flight."""
