"""The study in the folder idea."""
