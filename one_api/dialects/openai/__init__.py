"""OpenAI's Chat Completions: requests, answers and streams."""
