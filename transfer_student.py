"""The documented command: see `python transfer_student.py --help`."""

import sys

from distillers.cli.main import run

if __name__ == "__main__":
    sys.exit(run("transfer", sys.argv[1:], until_exit=True))
