"""The client APIs, one module each: bytes of a client to canonical, canonical to bytes of that client. No I/O."""
