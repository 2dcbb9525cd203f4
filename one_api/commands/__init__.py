"""What people type: the commands, a conversation with a running gateway, and what the start of one prints."""
