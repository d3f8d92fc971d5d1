"""``python -m piggyback`` is the console command; torchrun needs a module to start."""

import sys

from piggyback.cli import main

sys.exit(main())
