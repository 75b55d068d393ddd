"""The study in the folder benchmarks."""
