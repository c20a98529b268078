"""The router: Granian workers that respond to clients and try engine after engine until one responds.

main, app, worker, handover     the program, what runs in each worker, and how one hands over to its successor
server        what each path does              exchange     one client request: context, auth, headers, errors
forwarding    to an engine and back            balancing    which replica is next, and when
upstream      HTTP/1.1 client for engines      telemetry    counters, metrics, access log, status
shadowing     to another engine too, to compare the answers
"""
