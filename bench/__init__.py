"""kvlog is measured against its peers; every figure comes with the verification of what was measured.

``run`` is the command (``scripts/bench``): it measures the cases of ``cases`` on the ``systems``, of which some
need programs of ours, ``peers``. ``load`` puts a system under load by wrk, with the scripts in ``lua``.
``results`` is the file of what was measured, from which ``publish`` makes the report.
"""
