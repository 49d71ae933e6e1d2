import io

import pytest
from rich.console import Console
from study_jobs import jobs, trained

from lightning_effcx.studies import Row, run_jobs
from lightning_effcx.studies.runner.progress import progress_bar


@pytest.fixture
def console():
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def test_a_terminal_shows_done_failed_and_left(console):
    first, second = jobs(2)
    with progress_bar(9, 3, console=console) as advance:
        advance(Row(first))
        advance(Row(second, error="ValueError: no"))
    last = console.file.getvalue().splitlines()[-2]
    assert "5/9" in last
    assert "1 failed" in last
    assert "-:--:--" not in last
    assert last.endswith(" left")


def test_who_wants_no_bar_has_none(console):
    with progress_bar(2, 0, console=console, shown=False) as advance:
        advance(Row(jobs(1)[0]))
    assert not console.file.getvalue()


def test_what_is_no_terminal_shows_nothing(capfd):
    run_jobs(trained, jobs(1))
    assert capfd.readouterr() == ("", "")
