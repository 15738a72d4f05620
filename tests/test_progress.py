"""Progress as it is read: bars on a real terminal, lines elsewhere, by a clock of the test's own."""

import io
import re

import pytest

from tuition import progress

EPOCH = {"epoch": 3, "loss": 0.51237, "validation": 93.456}


@pytest.fixture
def clock():
    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    return Clock()


def test_a_line_every_few_seconds_and_a_last_one(clock):
    file = io.StringIO()
    advance = progress.Lines("calls", file, clock)
    for done in range(1, 13):  # one a second
        clock.now += 1
        advance(done, 12)
    assert file.getvalue().splitlines() == [
        "calls: 5 of 12, 1.0/s, about 7 s left",
        "calls: 10 of 12, 1.0/s, about 2 s left",
        "calls: 12 of 12, 1.0/s",
    ]


def test_what_takes_less_writes_nothing(clock):
    file = io.StringIO()
    advance = progress.Lines("calls", file, clock)
    clock.now += progress.SECONDS - 0.01
    advance(7, 7)
    assert file.getvalue() == ""


def test_a_resumed_count_has_the_rate_of_what_was_done_since(clock):
    file = io.StringIO()
    advance = progress.Lines("epochs", file, clock)
    advance(100, 120, "loss 1.0")
    clock.now += 10
    advance(105, 120, "loss 0.5")
    assert file.getvalue() == "epochs: 105 of 120, loss 0.5, about 30 s left\n"


def test_figures_of_an_epoch():
    assert progress.note(EPOCH) == "loss 0.5124, validation 93.46 %"
    assert progress.note({"loss": 2.0}) == "loss 2.000"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (119, "2 min"), (3570, "1 h 0 min"), (36_300, "10 h 5 min")]
)
def test_durations(seconds, words):
    assert progress.duration(seconds) == words


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_of_epochs_on_a_terminal_shows_loss_and_validation(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    with progress.training(terminal) as advance:
        advance(20, 20, EPOCH)
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "loss 0.5124, validation 93.46 %" in shown
    assert "20/20" in shown
    assert max(map(len, re.split(r"[\r\n]+", shown))) <= 80


def test_a_notebook_s_bar_is_redrawn_in_place_and_its_last_state_stays(clock):
    drawn = []
    advance = progress.Cell("<epochs>", drawn.append, clock)
    for done in range(1, 21):  # one in 1/32 of a second
        clock.now += 1 / 32
        advance(done, 20, "loss 1.0")
    # Four steps are 1/8 s, more than REDRAWN; the last step is drawn however soon it comes.
    assert [re.findall(r"value=\"(\d+)\"", forms["text/html"]) for forms in drawn] == [
        [str(done)] for done in (1, 5, 9, 13, 17, 20)
    ]
    assert drawn[1]["text/plain"] == "<epochs>: 5 of 20, loss 1.0, about 0 s left"
    assert drawn[-1]["text/plain"] == "<epochs>: 20 of 20, loss 1.0"
    assert drawn[-1]["text/html"] == '<progress value="20" max="20"></progress> &lt;epochs&gt;: 20 of 20, loss 1.0'
