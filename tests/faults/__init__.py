"""Faults in real nodes on a real ensemble, under clients that note everything, and the checkers of what they noted."""
