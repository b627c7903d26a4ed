"""Bars on terminals, lines in logs."""

from __future__ import annotations

import io

import pytest

from framework.commands.progress_bar import ProgressBar


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


def test_a_log_gets_a_line_for_every_tenth_but_not_more_than_every_ten_seconds(clock: _Clock) -> None:
    stream = io.StringIO()
    bar = ProgressBar(stream, clock)
    for done in range(101):
        clock.now = done * 2.0
        bar("preprocessing", done, 100)
    # a tenth takes 20 s here
    lines = stream.getvalue().splitlines()
    assert lines[0] == "preprocessing: 10/100, 0:20, about 3:00 left"
    assert len(lines) == 10
    assert lines[-1] == "preprocessing: 100/100, 3:20"


def test_a_log_gets_a_line_every_minute_where_a_tenth_takes_longer(clock: _Clock) -> None:
    stream = io.StringIO()
    bar = ProgressBar(stream, clock)
    for done in range(8):
        clock.now = done * 45.0
        bar("fingerprint", done, 1000)
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "fingerprint: 2/1000",
        "fingerprint: 4/1000",
        "fingerprint: 6/1000",
    ]


def test_a_short_run_leaves_nothing_in_a_log(clock: _Clock) -> None:
    stream = io.StringIO()
    bar = ProgressBar(stream, clock)
    for done in range(201):
        clock.now = done * 0.03
        bar("preprocessing", done, 200)
    assert stream.getvalue() == ""


def test_a_terminal_shows_a_bar_that_is_gone_at_the_end(clock: _Clock) -> None:
    stream = _Terminal()
    bar = ProgressBar(stream, clock)
    bar("preprocessing", 0, 4)
    assert stream.getvalue() == "\rpreprocessing [------------------------] 0/4, 0:00\r"
    clock.now = 30
    bar("preprocessing", 1, 4)
    assert "\rpreprocessing [######------------------] 1/4, 0:30, about 1:30 left" in stream.getvalue()
    clock.now = 4000
    bar("preprocessing", 4, 4)
    last, _, blank = stream.getvalue().rstrip("\r").split("\r")[-3:]
    assert last.rstrip() == "preprocessing [########################] 4/4, 1:06:40"
    assert not blank.strip()


def test_a_new_stage_starts_its_own_time(clock: _Clock) -> None:
    stream = _Terminal()
    bar = ProgressBar(stream, clock)
    bar("fingerprint", 3, 4)
    clock.now = 100
    bar("preprocessing", 0, 4)
    clock.now = 110
    bar("preprocessing", 2, 4)
    assert "2/4, 0:10, about 0:10 left" in stream.getvalue()


def test_lines_are_printed_between_drawings(clock: _Clock, capsys: pytest.CaptureFixture[str]) -> None:
    stream = _Terminal()
    bar = ProgressBar(stream, clock)
    bar("preprocessing", 1, 4)
    before = stream.getvalue()
    bar.say("a note")
    assert capsys.readouterr().out == "a note\n"
    wiped, drawn_again = stream.getvalue().removeprefix(before).strip("\r").split("\r\r")
    assert not wiped.strip()
    assert drawn_again.rstrip() == before.strip("\r")


def test_a_bar_that_is_not_wanted_is_silent(clock: _Clock) -> None:
    stream = _Terminal()
    ProgressBar(stream, clock, shown=False)("preprocessing", 1, 4)
    assert stream.getvalue() == ""
