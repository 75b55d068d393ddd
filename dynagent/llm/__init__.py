"""Language models: run here, served elsewhere, or replayed from a record."""
