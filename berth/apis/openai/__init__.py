"""OpenAI's API, which is the engines' own too.

chat, completions, embeddings, media (multipart) read requests; passthrough hands responses on.
"""
