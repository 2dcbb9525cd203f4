"""OpenAI's Responses dialect, as a door in front of Chat Completions."""
