"""The tasks that a team of agents is given: questions with one right option, and crosswords."""
