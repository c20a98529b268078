"""Anthropic's Messages API.

endpoints; request (with content and tools) translates requests, response and stream translate back; errors; models.
"""
