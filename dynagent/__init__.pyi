"""What `import dynagent` gives: read by editors, by type checkers, and by lazy_loader when a name is first used."""

from .evaluation.baselines import compare_with_baselines as compare_with_baselines
from .evaluation.evaluate import evaluate as evaluate
from .graph import AgentGraph as AgentGraph
from .learning.config import TrainConfig as TrainConfig
from .learning.loop import train as train
from .llm.load import load_llm as load_llm
from .policies.edge import EdgePolicy as EdgePolicy
from .policies.static import StaticEdgePolicy as StaticEdgePolicy
from .runs.config import RunConfig as RunConfig
from .runs.record import RunRecord as RunRecord
from .sampling import most_probable_dags as most_probable_dags
from .sampling import sample_dags as sample_dags
from .tasks.multiple_choice import Question as Question
from .tasks.multiple_choice import load_questions as load_questions
from .tasks.own import questions_from as questions_from
from .team.agents import Adversarial as Adversarial
from .team.agents import Constant as Constant
from .team.agents import Specialist as Specialist
from .team.agents import Truthful as Truthful
from .team.votes import MajorityVote as MajorityVote
from .viz.explorer import Explorer as Explorer

__version__: str
