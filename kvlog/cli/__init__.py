"""The operators' command line, ``python -m kvlog``.

``arguments`` says what there is, ``main`` runs it and turns every failure into one sentence and an exit code.
Each command has a function in ``backup``, ``restore``, ``recover``, ``skip`` or ``nodes``; what they share is in
``http``, ``console`` and ``directories``.
"""
