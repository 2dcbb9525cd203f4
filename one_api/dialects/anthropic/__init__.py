"""Anthropic's Messages, translated from and to OpenAI's dialect."""
