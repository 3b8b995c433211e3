"""Checkers: each looks at the evidence of a run, and tells what of it breaks a promise.

They know nothing of how a run is made, and are tested against histories that were made by hand.
"""
