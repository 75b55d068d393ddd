"""The study in the folder gallery."""
