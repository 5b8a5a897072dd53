"""Keeps modules of the folder in which a command is started from being imported.

`PYTHONPATH=.` in a shell's profile makes every folder a place of modules, for this process and for
those that it starts. Here only modules are imported that Python has loaded when it begins.
"""

import os
import sys

VARIABLE = "PYTHONPATH"


def leave_out_the_working_folder() -> None:
    """Take relative and empty entries out of PYTHONPATH, and what they mean out of our own path.

    The folder that this package comes from stays, by its absolute name: a checkout may be used so,
    and the processes that we start in other folders find it.
    """
    if not (named := os.environ.get(VARIABLE)):
        return
    own = os.path.abspath(f"{__file__}/../../..")
    entries = named.split(os.pathsep)
    wanted = {own, *filter(os.path.isabs, entries)}
    kept = [path for path in map(os.path.abspath, entries) if path in wanted]
    left_out = {*map(os.path.abspath, entries)} - wanted
    sys.path[:] = [path for path in sys.path if path not in left_out]
    if kept:
        os.environ[VARIABLE] = os.pathsep.join(kept)
    else:
        del os.environ[VARIABLE]
