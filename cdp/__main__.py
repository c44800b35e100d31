"""`python -m cdp`: the command line."""

from cdp.cli.main import main

main()
