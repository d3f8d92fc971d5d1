"""``python -m piggyback`` is the console command; torchrun needs a module to start."""

import sys

from piggyback.shell.cli import main

sys.exit(main())
