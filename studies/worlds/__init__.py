"""The study in the folder worlds."""
