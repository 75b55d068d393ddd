"""Compare what the edge LLM is and how it is read: `python -m studies.readings`."""

import sys

from studies.common.program import study_program
from studies.readings.study import STUDIES

main = study_program(STUDIES, "Compare what the edge LLM is and how it is read.")

if __name__ == "__main__":
    sys.exit(main())
