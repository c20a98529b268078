"""A request to a replica and the response back: attempts, streams, continuation after a cut, checks of the output."""
