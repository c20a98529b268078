"""How the simulated engine behaves under load: batches, the pace of tokens, and answers that differ."""
