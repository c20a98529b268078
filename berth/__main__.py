"""`python -m berth` is the same as the command `berth`."""

from berth.cli.main import main

main()
