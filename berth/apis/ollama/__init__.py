"""Ollama's own API.

chat, generate and embed read requests (fields, messages); response and stream write what comes back.
"""
