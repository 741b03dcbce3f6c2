"""`python -m pack_export`, which export.sh runs."""

import sys

from .cli import main

sys.exit(main())
