"""Pinned data and weights: where they come from and how they are checked."""
