"""The study in the folder released."""
