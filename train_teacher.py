"""The documented command: see `python train_teacher.py --help`."""

import sys

from distillers.cli.main import run

if __name__ == "__main__":
    sys.exit(run("teacher", sys.argv[1:], until_exit=True))
