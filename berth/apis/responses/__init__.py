"""OpenAI's Responses API over chat.

request (items, messages, tools), response, stream, store; endpoints lists its routes.
"""
