"""What can be said on the command line? Names become values here, and nothing else is decided."""

from bilevel.cli.cli import main

__all__ = ["main"]
