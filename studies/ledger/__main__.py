"""The ledger of the paper's claims: `python -m studies.ledger`."""

import sys

from studies.ledger.claims import main

if __name__ == "__main__":
    sys.exit(main())
