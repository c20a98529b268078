"""HTTP of the simulated engine, down to the bytes: faults need them."""
