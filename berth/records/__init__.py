"""What outlives a run: files in the data directory. Each has one writer; bad ones are reported and ignored."""
