"""How far scores can move: a network in steps, a rule for each, bounds by boxes and by lines."""
