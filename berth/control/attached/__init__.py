"""Servers that run elsewhere: control observes them, and cannot start or stop them."""
