"""Anthropic's Messages API.

request (with content, tools), response, stream, errors, models; endpoints lists its routes.
"""
