"""The command `berth`: arguments and exit codes. The work is done elsewhere, and imported only when it is needed."""
