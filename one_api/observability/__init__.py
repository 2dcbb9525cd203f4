"""Records of requests, and what is made of them: the log and the recent requests."""
