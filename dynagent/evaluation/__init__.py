"""How good a policy is, beside baselines and controls, with intervals."""
