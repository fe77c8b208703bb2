"""The command `flossing`; it needs the extra `lab`."""

import os
import sys


def main():
    """Run the command line of `flossing_lab`, or print in one line how to install it."""
    try:
        from flossing_lab.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("flossing", "flossing_lab"):
            raise
        print(
            f"flossing: the command line needs {error.name}; install it with   pip install 'flossing[lab]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    try:
        run()
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
