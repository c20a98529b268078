"""From a canonical request to what an engine reads.

references, fields, engine_fields                 what is sent, ignored or rejected
turns, values, structured_output, forced_calls    requests in a form that means the same on every engine
"""
