"""Examples that come to the devices batch by batch: the same ones, and the same bytes of a run."""

import json
import shutil
from unittest import mock

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import train
from configs import testing
from eanet.data import workers
from eanet.data.base import Split, Wanted
from eanet.data.digits import digits_source
from eanet.display.progress import Progress
from eanet.errors import UserError
from eanet.tools.verify_resume import digests
from eanet.training import feed as feed_lib
from eanet.training.batches import epoch_order
from eanet.training.feed import Resident, Streamed
from eanet.training.plan import Plan
from eanet.training.run import set_up
from tests.helpers import data_fixtures, main_job, plain
from tests.helpers.command_line import start_python
from tests.helpers.compiler import QUICKLY_COMPILED
from tests.helpers.pictures import leave_undrawn
from tests.helpers.training_cases import mesh_of


def examples(count):
    """Each image is its own number."""
    numbers = np.arange(count, dtype=np.int32)
    return Split(numbers.astype(np.uint8)[:, None, None, None], numbers)


def taken(feed, start, counts):
    """The labels, and the images, of so many steps at once, one after the other."""
    labels, images, step = [], [], start
    with feed.begin(start) as take:
        for count in counts:
            found, names, order, first = take(step, count)
            if order is None:
                batches = np.asarray(names)[first : first + count]
                pixels = np.asarray(found)[first : first + count]
            else:
                index = np.asarray(order)[first:]
                size = feed._plan.batch_size
                index = index[: count * size].reshape(count, size)
                batches, pixels = np.asarray(names)[index], np.asarray(found)[index]
            labels += list(batches)
            images += list(pixels[..., 0, 0, 0])
            step += count
    return np.array(labels), np.array(images)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 3))
@pytest.mark.parametrize(("count", "batch"), [(21, 4), (24, 8), (9, 8)])
def test_a_step_takes_the_same_examples_wherever_they_lie(count, batch, data, seed):
    plan = Plan(count, batch, 3.0, 1.0, 1.0)
    start = data.draw(st.integers(0, plan.total_steps - 1))

    def order(epoch):
        return epoch_order(seed, epoch, count, batch)

    arguments = examples(count), plan, mesh_of(2), order
    with mock.patch.object(feed_lib, "_WINDOW", 3 * batch):
        streamed = Streamed(*arguments)
    assert streamed.most == 3
    left, counts = plan.total_steps - start, []
    while left:
        counts.append(data.draw(st.integers(1, min(3, left))))
        left -= counts[-1]
    labels, images = taken(streamed, start, counts)
    np.testing.assert_array_equal(images, labels)
    expected, _ = taken(Resident(*arguments), start, [1] * sum(counts))
    np.testing.assert_array_equal(labels, expected)
    if start == 0:  # every example once an epoch
        epochs = labels.reshape(-1)[: 3 * count].reshape(3, count)
        assert (np.sort(epochs) == np.arange(count)).all()


@pytest.mark.parametrize(("count", "batch"), [(7, 3), (9, 8)])
def test_crops_are_those_of_the_epoch_that_an_example_is_of(count, batch):
    plan, start = Plan(count, batch, 4.0, 1.0, 1.0), 2
    of_epochs = np.arange(5 * count, dtype=np.uint8)[:, None, None, None]
    arguments = examples(count), plan, mesh_of(1), lambda epoch: epoch_order(1, epoch, count, batch)
    steps = plan.total_steps - start
    labels, images = taken(Streamed(*arguments, of_epochs), start, [1] * steps)
    epochs = np.arange(start * batch, (start + steps) * batch) // count
    np.testing.assert_array_equal(images.reshape(-1), labels.reshape(-1) + epochs * count)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The digits as PNG files, `PART/CLASS/NUMBER.png`."""
    root = tmp_path_factory.mktemp("digits")
    for part, split in digits_source("", Wanted()).read().splits.items():
        for number, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True)):
            path = root / part / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[..., 0]).save(path)
    return root


def make_config(root, *, streaming):
    return plain.get_config(**{"dataset.name": f"folder:{root}", "dataset.streaming": streaming})


@pytest.fixture(scope="module")
def optimized():
    """As for users: then programs that differ in the shapes of images compute the same bytes."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def decoded(optimized, digits, tmp_path_factory):
    """A run on the digits, decoded as a whole."""
    workdir = tmp_path_factory.mktemp("decoded") / "run"
    train.train(make_config(digits, streaming=False), workdir)
    return workdir


pytestmark = pytest.mark.usefixtures("undrawn_once")


@pytest.fixture(scope="module")
def undrawn_once():
    """As `undrawn`, for the fixtures of this file too."""
    with pytest.MonkeyPatch.context() as patch:
        leave_undrawn(patch)
        yield


@pytest.mark.parametrize(
    ("streaming", "fits", "expected"),
    [(None, True, Resident), (None, False, Streamed), (True, True, Streamed)],
)
def test_what_no_device_holds_is_streamed(streaming, fits, expected, monkeypatch):
    config = testing.get_config()
    config.dataset.streaming = streaming
    monkeypatch.setattr("eanet.devices.fits", lambda model, data, mesh: fits or data == 0)
    assert type(set_up(config, print).feed) is expected
    if not fits:
        config.dataset.streaming = False
        with pytest.raises(UserError, match=r"do without dataset\.streaming=False"):
            set_up(config, print)
    elif streaming:
        monkeypatch.setattr(feed_lib, "_WINDOW", 1)
        monkeypatch.setattr(feed_lib, "budget", lambda: 6 * 64 * 8 * 8 - 1)
        with pytest.raises(UserError, match=r"6 batches of 64 images of 8x8x1 need .* batch_size"):
            set_up(config, print)


@pytest.mark.slow
def test_a_streamed_run_outlives_lost_images_and_ends_with_the_same_bytes(
    optimized, digits, decoded, tmp_path
):
    root, epoch_done = shutil.copytree(digits, tmp_path / "digits"), Progress.epoch_done
    lost = {path: path.read_bytes() for path in (root / "train").glob("[456]/1*.png")}

    def lose(*arguments, **options):
        epoch_done(*arguments, **options)
        for path in lost:
            path.write_bytes(b"gone")

    config, workdir = make_config(root, streaming=True), tmp_path / "run"
    # With windows of one batch, the second epoch is not decoded yet when the first one ends.
    with (
        mock.patch.object(Progress, "epoch_done", lose),
        mock.patch.object(feed_lib, "_WINDOW", 1),
        pytest.raises(UserError, match=r"png cannot be read.*; the state after step") as caught,
    ):
        train.train(config, workdir)
    step = int(str(caught.value).split("after step ")[1].split()[0])
    assert 20 <= step < 39 and (workdir / "checkpoints" / str(step)).is_dir()
    for path, whole in lost.items():
        path.write_bytes(whole)
    train.train(None, workdir)
    assert digests(workdir) == digests(decoded)


def make_cropping_config(root):
    config = make_config(root, streaming=True)
    config.dataset.update(image_size=(8, 8), decode_crop=0.2)
    return config


@pytest.mark.slow
def test_what_a_step_sees_of_the_images_can_be_had_again(digits, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 1)
    run = set_up(make_cropping_config(digits), print)
    with run.feed.begin(0) as take:
        images, *_ = take(0, run.feed.most)
    step = run.feed.most - 1
    np.testing.assert_array_equal(images[step], run.batch_images(step))
    whole = run.dataset.train.images[run.batch_indices(step)]
    assert (run.batch_images(step) != whole).any()


@pytest.mark.slow
def test_a_run_on_crops_that_was_stopped_ends_with_the_same_bytes(digits, tmp_path):
    main_job.stopped_and_resumed(make_cropping_config(digits), tmp_path)


def test_two_crops_of_one_image_are_refused_before_the_data_is_read():
    config = make_config("/nowhere", streaming=True)
    config.dataset.decode_crop = config.augment.random_resized_crop = 0.5
    with pytest.raises(UserError, match="cut each image twice"):
        set_up(config, print)


@pytest.mark.slow
def test_a_streamed_run_that_was_killed_ends_with_the_same_bytes(digits, tmp_path):
    done = start_python(
        "-m", "eanet", "verify-resume", *plain.ARGUMENTS, "--kills=1",
        f"--config.dataset.name=folder:{digits}", "--config.dataset.streaming=true",
        "--config.num_epochs=10", "--config.checkpoint_every_steps=15", "--seed=3",
        "--config.optimizer.ema_decay=0.9", f"--out={tmp_path / 'found.json'}", **QUICKLY_COMPILED,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["same"] and all(end == found["left_alone"] for end in found["stopped"])
    assert {"params", "opt_state", "ema", "step", "metrics"} <= set(found["left_alone"])
    assert found["stops"]["in all"] == 1


_TRAINS = """
import sys
from pathlib import Path
from eanet import host
host.set_up()
import pytest
import train
from eanet.training import feed
from tests.helpers import plain
from tests.helpers.pictures import leave_undrawn
feed._WINDOW = 2**22  # so that few images fill all that is decoded ahead
config = plain.get_config()
config.dataset.streaming, config.num_epochs, config.model.patch_size = True, 1.0, 32
config.dataset.name, config.dataset.data_dir = "shapes", sys.argv[1]
leave_undrawn(pytest.MonkeyPatch())
train.train(config, Path(sys.argv[1]) / "run")
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("peak", int(peak.split()[1]) * 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path, monkeypatch):
    peaks, image = {}, np.full((128, 128, 3), 9, np.uint8)  # decoded 49 kB, few in the file
    encoded = data_fixtures.png(image)
    monkeypatch.setattr(data_fixtures, "png", lambda _: encoded)
    for count in (500, 4_000):
        images = np.broadcast_to(image, (count, *image.shape))
        labels = np.arange(count, dtype=np.int32) % 3
        parts = {"train": (images, labels), "test": (images[:9], labels[:9])}
        data_fixtures.write_prepared(tmp_path / str(count), "tfrecord", parts)
        done = start_python("-c", _TRAINS, tmp_path / str(count), **QUICKLY_COMPILED)
        assert done.returncode == 0, done.stderr
        peaks[count] = int(done.stdout.split("peak ")[1])
    assert peaks[4_000] - peaks[500] < 3_500 * image.nbytes / 2
