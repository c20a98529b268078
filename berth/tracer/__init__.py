"""`berth tracer`: reads the router's journal, and sends a span for each request, its queue and its attempts.

It is a program of its own, which runs only where traces are wanted: OpenTelemetry's SDK takes as long for the spans of
one request as the router takes for all of it. A collector that does not respond costs spans, which are counted, and
nothing else.
"""
