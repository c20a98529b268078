"""Anthropic's Messages API.

endpoints; request (with content, tools, typed_tools and server_results) translates requests, response and stream
translate back; errors; models.
"""
