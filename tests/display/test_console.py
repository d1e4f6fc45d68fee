import io
import math
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eanet.display.console import Console
from eanet.display.numbers import duration, epochs, human, percent
from eanet.display.progress import Count

FIGURES = {"loss": 2.4454, "accuracy": 0.4846, "top5_accuracy": 0.7958}
RESULTS = {
    "split": "test",
    **FIGURES,
    "num_examples": 10_000,
    "step": 15_650,
    "parameters": 361_380,
    "multiply_adds_per_image": 100_700_000,
    "evaluation_seconds": 33.2,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(params=[80, 120])
def terminal(request, monkeypatch):
    stream = Terminal()
    stream.width = request.param
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("LINES", "40")
    # Not before the test itself runs: pytest's own capture replaces it in between.
    stream.console = lambda: (monkeypatch.setattr(sys, "stdout", stream), Console())[1]
    return stream


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def train(console, *, epochs=3, num_epochs=3, **figures):
    figures = {**FIGURES, "images_per_second": 104.2, **figures}
    with console.progress(epochs * 100, 0, 100, num_epochs) as progress:
        for epoch in range(1, epochs + 1):
            for part in (50, 100):
                progress.update(step=100 * (epoch - 1) + part, **figures)
            progress.epoch_done(epoch=epoch, train=figures, val=FIGURES if epoch > 1 else None)


def say_everything(console, tmp_path):
    console.run_header(
        workdir=tmp_path, device="2 × cpu", step=313, total_steps=15_650, steps_per_epoch=313
    )
    console.dataset_table(
        "cifar100", {"train": 40_000, "test": 10_000}, image_shape=(32, 32, 3), num_classes=100
    )
    console.model_table([("block [red]1[/red]", (256, 64), 42_212, 12_345_678)], (361_380, 10**8))
    console.note("a note")
    console.warn("beware")
    train(console)
    console.results_table(RESULTS)
    console.next_steps(tmp_path)


def test_without_a_terminal_exactly_one_plain_line_an_epoch(capsys):
    train(Console(interactive=False))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  train loss 2.445 acc 48.5%  104 images/s")
    assert "val loss 2.445 acc 48.5%  top-5 79.6%" in lines[1]


def test_without_a_terminal_no_control_characters(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    say_everything(Console(), tmp_path)
    written = capsys.readouterr().out
    assert "\x1b" not in written and "\r" not in written


def test_each_line_leaves_at_once_when_piped():
    code = (
        "from eanet.display.console import Console\n"
        "with Console().progress(2, 0, 1, 2) as progress:\n"
        "    for epoch in (1, 2):\n"
        "        progress.epoch_done(epoch=epoch, train={'loss': 1.0}); input()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as child:
        for epoch in (1, 2):  # the child waits for the answer before it goes on
            while not (line := child.stdout.readline()).strip():
                assert line, "ended without a line"
            assert line.startswith(f"epoch {epoch}/2")
            child.stdin.write("\n")
            child.stdin.flush()


def test_what_is_next_works_from_any_directory(capsys, tmp_path, monkeypatch):
    (tmp_path / "a run").mkdir()
    monkeypatch.chdir(tmp_path)
    for there in (None, "/bin/tensorboard"):
        monkeypatch.setattr("shutil.which", {"tensorboard": there}.get)
        Console(interactive=False).next_steps("a run")
        said = capsys.readouterr().out
        assert f"tensorboard --logdir='{tmp_path / 'a run' / 'tensorboard'}'" in said
        assert ("pip install -r requirements-tensorboard.txt" in said) == (there is None)


def test_names_are_written_as_they_are(capsys, tmp_path):
    say_everything(Console(interactive=False), tmp_path)
    written = capsys.readouterr().out
    for text in ("block [red]1[/red]", "42,212", "12.3 M", "40,000", "32 × 32 × 3", "361,380"):
        assert text in written
    assert "resumes at step 313 of 15,650 (epoch 1 of 50)" in written


@pytest.mark.parametrize(
    ("step", "state"), [(0, "starts: 20"), (7, "resumes at step 7"), (20, "already complete")]
)
def test_the_header_says_where_training_stands(capsys, step, state):
    Console(interactive=False).run_header(
        workdir="runs/x", device="cpu", step=step, total_steps=20, steps_per_epoch=10
    )
    written = capsys.readouterr().out
    assert state in written and "runs/x" in written and "cpu" in written


def test_next_steps_name_what_is_there_and_can_be_pasted(capsys, tmp_path):
    workdir = tmp_path / ("long " * 30).strip()
    workdir.mkdir()
    (workdir / "curves.png").touch()
    Console(interactive=False).next_steps(workdir)
    written = capsys.readouterr().out
    assert "curves.png" in written and "README.md" not in written
    assert f"python main.py --mode=eval --workdir='{workdir}'\n" in written


def test_on_a_terminal_lines_fit_and_figures_are_whole(terminal, tmp_path):
    say_everything(terminal.console(), tmp_path / "x")
    lines = [line for line in plain(terminal.getvalue()).replace("\r", "\n").splitlines()]
    paths = [line for line in lines if str(tmp_path) in line]
    assert all(len(line.rstrip()) <= terminal.width for line in lines if line not in paths)
    assert "…" not in terminal.getvalue()
    assert any("train loss 2.445 acc 48.5%  val loss 2.445 acc 48.5%" in line for line in lines)
    assert sum(line.startswith("epoch") and "━" not in line for line in lines) == 3


def test_at_80_columns_the_figures_outlive_the_rates(terminal):
    train(terminal.console(), epochs=3, num_epochs=1000, images_per_second=123456.0, loss=12345.6)
    lines = plain(terminal.getvalue()).replace("\r", "\n").splitlines()
    told = [line for line in lines if line.startswith("epoch") and "━" not in line]
    assert len(told) == 3
    for line in told[1:]:
        assert "train loss 1.2e+04 acc 48.5%  val loss 2.445 acc 48.5%" in line
        assert len(line) <= terminal.width


def test_the_live_bar_shows_time_left_and_then_disappears(terminal):
    console = terminal.console()
    with console.progress(300, 100, 100, 3) as progress:
        progress.update(step=150, **FIGURES)
        progress.update(step=200, **FIGURES)
        progress.epoch_done(epoch=2, train=FIGURES, val={"loss": 9.876})
    written = terminal.getvalue()
    assert re.search(r"epoch 3/3 ━+.* 67%  .*left", plain(written))
    assert plain(written).count("val loss 9.876") >= 2  # told, and kept beside the bar
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is back
    assert "\x1b[2K" in written[written.rindex("━") :]  # the bar is wiped out


def test_figures_that_are_not_finite_or_missing_are_shown_as_such(capsys):
    with Console(interactive=False).progress(2, 0, 2, 0.5) as progress:
        progress.update(step=2, loss=math.nan)
        progress.epoch_done(epoch=0.5, train={"loss": math.nan}, val={"loss": math.inf})
    assert "epoch 0.5/0.5  train loss nan  val loss inf" in capsys.readouterr().out


def test_a_terminal_without_the_characters_does_not_end_a_training():
    code = "from eanet.display.console import Console; Console().note('2 × 2')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "2 ? 2\n"


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys\n"
        "import eanet.display.console, eanet.workdir.log, eanet.workdir.results\n"
        "import eanet.display.curves\n"
        "print({'jax', 'matplotlib', 'tensorboardX', 'yaml', 'numpy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


HOSTILE = "a\x1b]0;title\x07\x1b[2Jb\r\nc\u202e\x9b31m"


@pytest.mark.parametrize("interactive", [True, False])
def test_what_a_terminal_would_obey_is_escaped(capsys, tmp_path, interactive):
    console = Console(interactive)
    workdir = tmp_path / HOSTILE
    workdir.mkdir()
    (workdir / "curves.png").touch()
    console.note(HOSTILE)
    console.warn(HOSTILE)
    console.run_header(workdir=workdir, device=HOSTILE, step=0, total_steps=1, steps_per_epoch=1)
    console.dataset_table(HOSTILE, {HOSTILE: 1}, image_shape=(1,), num_classes=1)
    console.model_table([(HOSTILE, (1,), 1, 1)], (1, 1))
    console.layers_table({HOSTILE: {}})
    console.results_table({"split": HOSTILE, "accuracy": 0.5})
    console.table(HOSTILE, (HOSTILE, ""), [(HOSTILE, HOSTILE)])
    console.next_steps(workdir)
    written = plain(capsys.readouterr().out)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", written)
    assert r"a\x1b]0;title\x07\x1b[2Jb\r\nc\u202e\x9b31m" in written


def test_epochs_are_those_that_a_person_asked_for():
    # 0.1 epochs of 312.5 steps are 32 steps, 0.1024 epochs; 40 epochs of 10.1 steps 404.
    assert [epochs(32, 32 / 312.5), epochs(404, 404 / 10.1), epochs(405, 40.0990)] == [
        *("0.1", "40", "40"),
    ]
    assert [epochs(0, 0.0), epochs(1, 0.25), epochs(12_500, 12.5), epochs(313, 1.0)] == [
        *("0", "0.2", "12.5", "1"),
    ]


@given(st.integers(1, 100_000), st.integers(1, 5_000), st.sampled_from([1, 10, 100]))
def test_the_epochs_shown_are_complete_at_this_step_and_not_at_the_one_before(asked, batch, parts):
    epoch_length = 50_000 / batch  # steps
    step = math.ceil(asked / parts * epoch_length - 1e-6)
    shown = float(epochs(step, step / epoch_length))
    assert (step - 1) / epoch_length - 1e-5 <= shown <= step / epoch_length + 1e-5
    assert len(f"{shown:g}") <= len(f"{asked / parts:g}")


def test_numbers_for_people():
    assert [human(n) for n in (0, 999, 1000, 361_380, 100_700_000, 2.5e9, 999_950_000)] == [
        *("0", "999", "1.0 k", "361.4 k", "100.7 M", "2.5 G", "1.0 G"),
    ]
    assert percent(0.4391) == "43.91%"
    assert [duration(s) for s in (0.04, 59.94, 59.96, 3599.6, 90_061, math.inf)] == [
        *("< 0.1 s", "59.9 s", "0:01:00", "1:00:00", "25:01:01", "?"),
    ]


def test_images_whose_number_is_not_known_are_counted_once_a_minute(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    count = Count(said.append, live=False)
    for _ in range(130):
        now[0] += 1
        count.add(20)
    assert said == [
        "1,220 images in 0:01:01  20.0 images/s",
        "2,440 images in 0:02:02  20.0 images/s",
    ]
    assert str(count.__rich__()) == "2,600 images in 0:02:10  20.0 images/s"


def test_what_is_drawn_is_not_said_besides(monkeypatch):
    count = Count(pytest.fail, live=True)
    monkeypatch.setattr("time.monotonic", lambda: math.inf)
    count.add(1)
    assert str(count).startswith("1 image in ")
