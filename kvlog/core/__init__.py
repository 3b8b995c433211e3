"""The pure core: what a node decides, without doing anything.

Nothing below this folder performs I/O, starts threads, reads a clock or draws random numbers. The core is
called and never calls: ``Node.step(event, now)`` takes what happened and returns what is to be done.
"""
