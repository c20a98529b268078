"""Servers that run elsewhere: their addresses, and what they say about themselves."""
