"""Faults on purpose: a small real training is killed, denied the disk and damaged, and must end as the clean one.

``python -m tests.faults`` is the whole form; `test_faults.py` a reduced one for CI. `run_with_fault.py` starts
``fw_train`` with one fault in it, `small_training.py` prepares and starts, `comparison.py` says what a run has left,
`kills.py`, `disk.py` and `damage.py` draw their faults from a seed and check what must hold.
"""
