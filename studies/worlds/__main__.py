"""Measure every recipe in every known-answer world: `python -m studies.worlds`."""

import sys

from studies.common.program import study_program
from studies.worlds.study import STUDIES

main = study_program(STUDIES, "Measure every recipe in every known-answer world.")

if __name__ == "__main__":
    sys.exit(main())
