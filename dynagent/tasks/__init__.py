"""The tasks that a team of agents is given: questions with one right option, and crosswords."""

from dynagent.tasks.multiple_choice import Question, Questions, load_questions
from dynagent.tasks.own import questions_from

__all__ = ["Question", "Questions", "load_questions", "questions_from"]
