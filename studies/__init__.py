"""The studies: each writes a record in results/, and tables and figures from it."""
