"""The router: Granian workers that answer the clients and go from engine to engine until one answers.

main starts the workers; app is what runs in each of them: endpoints (one per path), auth, catalog (public names),
upstreams (which replicas can be asked now), routing (in which order, and what a failed request is told), proxy (one
request's way) with relay (the frames of a stream) and flights (who is to be stopped), http_client (towards the
engines), scoreboard and metrics (counters shared by the workers), status (the JSON of /status).
"""
