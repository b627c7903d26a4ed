from __future__ import annotations

import signal
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="ends differently there")
def test_a_crash_inside_a_library_says_what_every_thread_was_doing():
    code = (
        "import os, sys, threading; from framework.commands.common import run_command\n"
        "def wait_for_ever(begun): begun.set(); threading.Event().wait()\n"
        "def crash():\n"
        "    begun = threading.Event(); threading.Thread(target=wait_for_ever, args=(begun,), daemon=True).start()\n"
        "    begun.wait(); os.abort()\n"
        "sys.exit(run_command(crash))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGABRT
    assert "in crash" in ended.stderr
    assert "in wait_for_ever" in ended.stderr


def test_a_command_runs_where_errors_go_to_no_file():
    code = "import sys; sys.stderr = None; from framework.commands.common import run_command; run_command(lambda: 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
