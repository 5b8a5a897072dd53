"""`python -m flows.cli`: the command of a checkout that is not installed."""

from flows.cli import main

if __name__ == "__main__":
    main()
