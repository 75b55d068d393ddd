"""What `import dynagent` gives: read by editors, by type checkers, and by lazy_loader when a name is first used."""

from .agents import Adversarial as Adversarial
from .agents import Constant as Constant
from .agents import Specialist as Specialist
from .agents import Truthful as Truthful
from .baselines import compare_with_baselines as compare_with_baselines
from .config import RunConfig as RunConfig
from .config import TrainConfig as TrainConfig
from .decision import MajorityVote as MajorityVote
from .explore import Explorer as Explorer
from .graph import AgentGraph as AgentGraph
from .llm import load_llm as load_llm
from .policy import EdgePolicy as EdgePolicy
from .policy import StaticEdgePolicy as StaticEdgePolicy
from .results import RunRecord as RunRecord
from .sampling import most_probable_dags as most_probable_dags
from .sampling import sample_dags as sample_dags
from .tasks import Question as Question
from .tasks import load_questions as load_questions
from .tasks import questions_from as questions_from

__version__: str
