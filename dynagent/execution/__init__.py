"""Running a team along a graph."""
