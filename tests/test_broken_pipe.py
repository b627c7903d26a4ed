from __future__ import annotations

import subprocess
import sys


def test_a_reader_who_has_seen_enough_is_no_error():
    code = (
        "import sys; from framework.commands.common import run_command\n"
        "def talk():\n    for _ in range(100_000): print('a line of text', flush=True)\n    return 0\n"
        "sys.exit(run_command(talk))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        assert process.stderr.read() == b""
    assert process.returncode == 0
