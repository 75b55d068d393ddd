"""The study in the folder crosswords."""
