"""The study in the folder site."""
