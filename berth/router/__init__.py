"""The router: Granian workers that answer the clients and go from engine to engine until one answers.

main starts the workers; app is what runs in each of them: endpoints (one per path), auth, catalog (public names),
upstreams (which replicas can be asked now), balance and affinity (the best of them in front), admission, queue and
priority (who waits until one has room), routing (pure decisions, and what a failed request is told), proxy (one
request's way) with attempts, relay (the frames of a stream), pump, continuation and flights (who is to be stopped),
http_client (towards the engines), scoreboard, metrics (counters shared by the workers) and request_log, status (the
JSON of /status).
"""
