"""The study in the folder communication."""
