"""`python -m berth` is the same as the command `berth`."""

from berth.cli import main

main()
