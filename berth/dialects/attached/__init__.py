"""Servers that run elsewhere: what each of them spells in its own way, ignores, or cannot do.

    server          what their dialects share: constraints, forced calls, and the fields that a server reads
    promises        a response has what the request asked for
    stream_decoder  frames made into OpenAI's
    servers         the dialects that are tables
    llamacpp, tei, ollama   those with paths or an API of their own
    detection       which server it is, from its answers to GET requests

Servers ignore what they do not know. So what a server is known to ignore is refused, and the rest is checked in its
response: the request goes to another engine, or is rejected with the name of the field.
"""
