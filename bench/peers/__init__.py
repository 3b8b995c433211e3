"""Peers of which a part is ours: the programs that the systems of the same names start as processes."""
