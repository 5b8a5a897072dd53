"""The `diffgraph` command: one file a verb, or one idea that verbs share."""


def main() -> None:
    """Run the command; the entry point of the installed script."""
    from flows.cli.module_path import leave_out_the_working_folder

    leave_out_the_working_folder()
    from flows.cli.command import main

    main()
