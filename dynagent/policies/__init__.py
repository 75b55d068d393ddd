"""Edge policies: from a question to one logit for every potential edge."""
