"""Watches: what happens from a revision on, to whoever wants to know, each change once and in order."""
