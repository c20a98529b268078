"""Background tasks of control, each with its own eye on something that changes by itself."""
