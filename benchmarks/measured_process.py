"""Wall time, processor time and memory of a command and all processes that it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# In a process of its own, so that the maximum is that of this command alone.
_WATCH = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE).returncode
seconds = time.perf_counter() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        seconds: on the clock.
        processor_seconds: of all its processes together.
        largest_process: bytes of memory that its largest process had at its peak.
    """

    seconds: float
    processor_seconds: float
    largest_process: int


def measure(command: Sequence[str | Path], environment: Mapping[str, str]) -> Measured:
    """Run a command to its end; ends the benchmark if it fails."""
    watched = [sys.executable, "-S", "-c", _WATCH, *map(str, command)]
    done = subprocess.run(watched, env=os.environ | dict(environment), capture_output=True, text=True, check=True)
    code, seconds, processor_seconds, largest = json.loads(done.stdout)
    if code != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with exit code {code}")
    return Measured(seconds, processor_seconds, largest)
