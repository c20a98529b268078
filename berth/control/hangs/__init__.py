"""What hangs: starts that make no progress, and engines that are well by their health path and generate nothing."""
