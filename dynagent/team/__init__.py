"""The agents, what they are told, and how they decide together."""
