"""Time and memory of a newcomer's commands: a fresh copy of the checkout, an empty home, nothing cached.

`make bench-first-run` prints the table and writes results/first_run.json. It takes about 25 minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from dynagent.runs.provenance import code_version
from dynagent.runs.record import Record
from studies.common.record import place_of, record_path

ROOT = Path(__file__).resolve().parents[2]
IMPORT = "import sys, dynagent; sys.exit(bool({'transformers', 'datasets', 'matplotlib'} & set(sys.modules)))"
# name, command, at most so many seconds
COMMANDS = (
    ("make train, from nothing", "make train", 720),
    ("make train, again", "make train", 180),
    ("preset smoke", "make train ARGS='-p preset smoke'", 60),
    ("make test, caches there", "make test", 900),
    ("make test, from nothing", "rm -rf .venv ../home && mkdir ../home && make test", 900),
    ("import dynagent", f'.venv/bin/python -c "{IMPORT}"', 2),
)


# In a process of its own, which has no other children: their largest resident memory is the command's.
MEASURE = """
import json, resource, subprocess, sys, time
start = time.monotonic()
done = subprocess.run(["bash", "-c", sys.argv[1]], stdout=sys.stderr)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
print(json.dumps({"seconds": round(time.monotonic() - start, 1), "peak_memory_gb": round(peak, 2)}))
sys.exit(done.returncode)
"""


def measure(command: str, folder: Path, home: Path) -> dict[str, float]:
    """Wall seconds, and the resident memory of the command's largest process in GB."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("DYNAGENT_", "XDG_"))}
    measuring = [sys.executable, "-c", MEASURE, command]
    done = subprocess.run(measuring, cwd=folder, env=variables | {"HOME": str(home)}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-6000:]}")
    return dict(json.loads(done.stdout))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, home = Path(temporary, "dynagent"), Path(temporary, "home")
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        code = code_version() | {"dirty": False}  # what was cloned: later changes of the checkout are not measured
        home.mkdir()
        rows = []
        print(f"{'':28}{'seconds':>10}{'goal':>8}{'peak GB':>10}{'goal':>6}")
        for name, command, goal in COMMANDS:
            row = {"name": name, "command": command, "goal_seconds": goal, "goal_gb": 4}
            row |= measure(command, folder, home)
            rows.append(row)
            print(f"{name:28}{row['seconds']:>10}{goal:>8}{row['peak_memory_gb']:>10}{4:>6}", flush=True)
    kind = "benchmarks/first_run"
    Record.make(kind=kind, command=place_of(kind).command, code=code, numbers={"rows": rows}).save(record_path(kind))


if __name__ == "__main__":
    main()
