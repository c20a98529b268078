"""What is seen of the router: counters shared by the workers, metrics, access log, status."""
