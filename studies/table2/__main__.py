"""Train many seeds of every cell of Table 2 on recorded answers: `python -m studies.table2`."""

import sys

from studies.common.program import study_program
from studies.table2.study import STUDIES

main = study_program(STUDIES, "Train many seeds of every cell of Table 2 on recorded answers.")

if __name__ == "__main__":
    sys.exit(main())
