"""The HTTP/1.1 client for engines: one connection, and the pool of them."""
