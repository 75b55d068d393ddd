"""Train static and dynamic policies in the simulated crosswords world: `python -m studies.crosswords`."""

import sys

from studies.common.program import study_program
from studies.crosswords.study import STUDIES

main = study_program(STUDIES, "Train static and dynamic policies in the simulated crosswords world.")

if __name__ == "__main__":
    sys.exit(main())
