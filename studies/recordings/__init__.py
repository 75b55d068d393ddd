"""The study in the folder recordings."""
