"""Train the specialists of figure 1, and choose the questions that it shows: `python -m studies.idea`."""

import sys

from studies.common.program import study_program
from studies.idea.study import STUDIES

main = study_program(STUDIES, "Train the specialists of figure 1, and choose the questions that it shows.")

if __name__ == "__main__":
    sys.exit(main())
