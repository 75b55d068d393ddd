"""The study in the folder readings."""
