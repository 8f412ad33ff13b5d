"""`python -m distillers` is the command `distillers`."""

import sys

from distillers.cli import main

sys.exit(main())
