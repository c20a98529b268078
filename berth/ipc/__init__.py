"""What the programs of a running Berth exchange: control socket, shared memory, files of the run directory."""
