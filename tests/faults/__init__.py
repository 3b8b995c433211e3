"""Faults in real nodes on a real ensemble, clients that note everything, and the checkers of what they noted."""
