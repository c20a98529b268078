"""OpenAI's API, which the engines speak too.

chat, completions, embeddings and media (with multipart) parse requests, fields checks them, and passthrough forwards
responses.
"""
