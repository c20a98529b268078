"""One client request: its context, its authentication, its headers, its cancellation, and the error it ends with."""
