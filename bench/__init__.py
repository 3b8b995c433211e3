"""Measurements: programs that print figures, each with the verification of what it has measured."""
