"""`python -m bilevel.cli`: the same as `bilevel`."""

from bilevel.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
