"""The study in the folder table2."""
