"""OpenAI's API, which is also the engines' own: chat, completions, embeddings, media (multipart); passthrough hands responses on."""
