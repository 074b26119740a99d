"""``python -m vlmcourse`` is the command ``vlmcourse``."""

import sys

from vlmcourse.cli import main

if __name__ == "__main__":
    sys.exit(main())
