"""What a migration does besides its decisions (see `decisions.migrations`).

migrator      observes, lets decide, and keeps the result       examination   the check of a candidate
evidence      counts what the routers report of both replicas
shadower      runs the shadows, which need no migration
"""
