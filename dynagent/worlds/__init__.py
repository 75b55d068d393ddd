"""Known-answer worlds: simulated agents whose best graph is known exactly."""
