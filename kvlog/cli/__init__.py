"""The command line, ``python -m kvlog``.

``arguments`` says what there is, with ``user_arguments`` and ``operator_arguments``, and makes a value of
``commands`` or ``user_commands`` of each command line; ``options`` has what several take. ``main`` runs it
and turns every failure into one sentence and an exit code; ``running`` knows the function for each command. What
commands share is in ``http``, ``console``, ``show`` and ``directories``.
"""
