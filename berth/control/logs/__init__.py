"""The engines' logs: followed, rotated, and read for the progress of a start."""
