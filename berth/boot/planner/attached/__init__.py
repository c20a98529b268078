"""Servers that run elsewhere: their addresses, what they say about themselves, and their replicas."""
