"""The study in the folder frontier."""
