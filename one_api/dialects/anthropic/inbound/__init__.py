"""Anthropic's Messages, served: their requests become chat requests, and chat answers become messages and events."""
