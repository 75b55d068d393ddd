"""The study in the folder ledger."""
