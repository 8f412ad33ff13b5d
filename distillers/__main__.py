"""`python -m distillers` is the command `distillers`."""

import sys

from distillers.cli.main import main

sys.exit(main())
