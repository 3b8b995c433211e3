"""Tests. Whoever imports this with KVLOG_MUTANT set gets that mutant of kvlog; see tests.faults.mutation."""

import os

if "KVLOG_MUTANT" in os.environ:
    from tests.faults.mutants import MUTANTS
    from tests.faults.mutation import switch_on

    switch_on(MUTANTS[os.environ["KVLOG_MUTANT"]])
