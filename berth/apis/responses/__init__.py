"""OpenAI's Responses API over chat.

request (items, typed_items, messages, tools, client_tools), response, stream, store; endpoints lists its routes.
"""
