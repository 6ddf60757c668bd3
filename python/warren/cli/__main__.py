"""`python -m warren.cli` is `warrenctl`."""

from warren.cli.main import main

main()
