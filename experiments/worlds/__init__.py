"""Known-answer worlds: real questions, simulated agents, and an optimum that is known exactly.

A simulated agent is right with a stated probability in each domain (a language, or a subject), and otherwise names one
of the wrong letters. What a wiring is worth is then an expectation that can be computed, not a draw of answers, and so
is the best that any wiring can do. A learner sees draws alone.
"""

from experiments.worlds.simulated import Simulated
from experiments.worlds.teams import NUM_PER_SUBJECT, SUBJECTS, TEAMS, load_world
from experiments.worlds.world import Optimum, World

__all__ = ["NUM_PER_SUBJECT", "SUBJECTS", "TEAMS", "Optimum", "Simulated", "World", "load_world"]
