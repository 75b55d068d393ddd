"""Measure what edges between agents earn: `python -m studies.communication`."""

import sys

from studies.common.program import study_program
from studies.communication.study import STUDIES

main = study_program(STUDIES, "Measure what edges between agents earn.")

if __name__ == "__main__":
    sys.exit(main())
