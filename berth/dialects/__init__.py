"""The engines' APIs: canonical requests in each engine's spelling, and its responses back in canonical form. No I/O.

base, registry                                        the interfaces, and all dialects by name
openai                                                OpenAI's own API, and the base of the other dialects
vllm, sglang, trtllm                                  one dialect each
request_checks                                        what must not reach an engine
attached                                              one dialect for each server that runs elsewhere
requests                                              from a canonical request to what an engine reads
tokenize, pooling, media, tool_calls                  requests and responses by topic
answers, choices, embeddings, stream_decoder, media_stream, failures   responses, whole and streamed
"""
