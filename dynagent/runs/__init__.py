"""A run as a whole: its parameters, its parts, its record."""
