"""What the programs of a running Berth tell each other: control socket, shared memory, files of the run directory."""
