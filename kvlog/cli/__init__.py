"""The operators' command line, ``python -m kvlog``.

``arguments`` says what there is, and makes of each command line a value of ``commands``; ``options`` has what
several commands take. ``main`` runs it and turns every failure into one sentence and an exit code. Each command
has a function in ``backup``, ``restore``, ``recover``, ``skip``, ``nodes`` or ``completion``; what they share is
in ``http``, ``console`` and ``directories``.
"""
