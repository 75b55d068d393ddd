"""Draw the figures of the studies from their records, stale or not: `python -m studies.gallery`."""

import sys

from studies.gallery.figures import main

if __name__ == "__main__":
    sys.exit(main())
