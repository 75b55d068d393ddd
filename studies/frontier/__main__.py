"""Measure accuracy against tokens of every wiring: `python -m studies.frontier`."""

import sys

from studies.common.program import study_program
from studies.frontier.study import STUDIES

main = study_program(STUDIES, "Measure accuracy against tokens of every wiring.")

if __name__ == "__main__":
    sys.exit(main())
