"""The engines' APIs: canonical requests in each engine's spelling, and its responses back in canonical form. No I/O.

base, registry                                        the interfaces, and all dialects by name
openai                                                OpenAI's own API, and the base of the other dialects
vllm, sglang, trtllm                                  one dialect each
request_checks, references, fields, engine_fields     what is checked, sent, ignored or rejected
turns, values, structured_output, forced_calls        requests in a form that means the same on every engine
tokenize, pooling, media, tool_calls                  requests and responses by topic
answers, choices, embeddings, stream_decoder, media_stream, failures   responses, whole and streamed
"""
