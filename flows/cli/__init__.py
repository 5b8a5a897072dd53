"""The `diffgraph` command: one file a verb, or one idea that verbs share."""


def main() -> None:
    """Run the command; the entry point of the installed script."""
    from flows.cli.command import main

    main()
