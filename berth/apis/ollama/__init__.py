"""Ollama's own API.

chat, generate and embed are the endpoints; request (with fields and messages) builds canonical requests; response and
stream encode the result.
"""
