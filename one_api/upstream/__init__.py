"""The HTTP client towards providers, and what they say of errors and models."""
