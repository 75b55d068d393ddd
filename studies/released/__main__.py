"""Measure what each thing that the released code does changes: `python -m studies.released`."""

import sys

from studies.common.program import study_program
from studies.released.study import STUDIES

main = study_program(STUDIES, "Measure what each thing that the released code does changes.")

if __name__ == "__main__":
    sys.exit(main())
