"""Whatever stands in the files of a run: it is used, repaired with a copy kept, or refused."""

import json
import os
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eanet import config as config_lib
from eanet import files
from eanet.checkpoints import manifest as manifest_lib
from eanet.checkpoints.layout import Metadata
from eanet.checkpoints.manager import Checkpoints
from eanet.convert import keras_files
from eanet.convert.keras_weights import infer, to_params
from eanet.display.curves import plot_curves
from eanet.display.model_card import write_model_card
from eanet.workdir import log as log_lib
from tests.helpers.fuzz import cases, mutated, tried
from tests.helpers.keras_fakes import keras3_values, legacy_h5, write_keras_archive


@pytest.fixture(autouse=True, scope="module")
def fast_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


HUGE = [10**400, -(10**30), 1e308, -1e308, 1e-320, 2**63, 0, -1, True, None, "", "x", [], {}]
NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from(HUGE)
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "step": st.integers(0, 40) | NUMBERS,
        "epoch": st.floats(0, 4) | NUMBERS,
        "split": st.sampled_from(["train", "val", "val ", "\ud800", 3, None]),
        "loss": st.floats(0, 9) | NUMBERS,
        "accuracy": st.floats(0, 1) | NUMBERS,
        "top5_accuracy": st.floats(0, 1) | NUMBERS,
    },
)


def a_line(record) -> bytes:
    return json.dumps(record).encode()


GOOD = st.builds(
    lambda step, split, loss: a_line(
        {"step": step, "epoch": step / 10, "split": split, "loss": loss, "accuracy": 0.5}
    ),
    st.integers(0, 40),
    st.sampled_from(["train", "val"]),
    st.floats(0, 9),
)
LINES = st.one_of(
    GOOD,
    GOOD,
    RECORDS.map(a_line),
    st.binary(max_size=30),
    GOOD.flatmap(mutated),
    st.sampled_from(
        [b"[" * 50_000, b"\0" * 4096, b'{"step": 1' + b"0" * 5000 + b"}", b"\xef\xbb\xbf"]
    ),
)
LOGS = st.tuples(st.lists(LINES, max_size=6), st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])).map(
    lambda x: x[1].join([*x[0], b""])
)
LOGS |= LOGS.flatmap(mutated)


@cases(few=60)
@given(st.lists(LOGS, min_size=1, max_size=2), st.integers(0, 30))
@example([b'{"step": 1, "epoch": 1, "split": "val"}\n' * 2], 1)
@example([b"words of a person\n", b"other words\n"], 1)
@example([b'{"step": 1, "epoch": 1.0, "split": "val", "loss": 1, "loss": 2}\n'], 1)
def test_logs(contents, step):
    """Opened for training: all but a torn last line and lines of later steps stays somewhere."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "metrics.jsonl")
        for content in contents:
            path.write_bytes(content)
            before = log_lib.read(path)
            tried("metrics.jsonl", lambda: write_one(name, step))
            *kept, _ = log_lib.read(path)
            np.testing.assert_equal(kept, [record for record in before if record["step"] <= step])
        copies = [copy.read_bytes() for copy in Path(name).glob("metrics.jsonl.damaged*")]
        for content in contents:
            whole = content[: content.rfind(b"\n") + 1]
            path.write_bytes(whole)
            written = b"".join(map(files.strict_json, log_lib.read(path)))
            assert whole == written or content in copies


def write_one(workdir, step):
    with log_lib.RunLog(workdir, step=step, say=lambda line: None) as log:
        log.write(step + 1, 1.0, "val", loss=1.0)


RESULT_KEYS = ["accuracy", "top5_accuracy", "loss", "num_examples", "step", "parameters"]
RESULT_KEYS += ["multiply_adds_per_image", "evaluation_seconds", "device", "versions", "git_commit"]
RESULTS = st.one_of(
    st.none(),
    st.binary(max_size=20),
    st.dictionaries(st.sampled_from(RESULT_KEYS), NUMBERS | st.floats(0, 1)).map(a_line),
)
CONFIGS = st.one_of(
    st.just(a_line({"model": {"attention": "external"}, "dataset": {"name": "digits"}})),
    st.dictionaries(
        st.sampled_from(["model", "dataset", "seed"]),
        NUMBERS | st.dictionaries(st.sampled_from(["attention", "name"]), NUMBERS),
    ).map(a_line),
)


@cases(few=6, share=0.4)
@given(LOGS, RESULTS, CONFIGS)
@example(a_line({"step": 1, "epoch": 1e308, "split": "val", "accuracy": 1}) + b"\n", None, b"{}")
@example(b"", a_line({"accuracy": 10**400}), b"{}")
@example(b"", a_line({"loss": 1}), a_line({"model": {"attention": []}}))
def test_reports(log, results, config):
    with tempfile.TemporaryDirectory() as name:
        workdir = Path(name)
        content = {"metrics.jsonl": log, "results_test.json": results, "config.json": config}
        for file, data in content.items():
            if data is not None:
                (workdir / file).write_bytes(data)

        def report():
            plot_curves(workdir)
            config = config_lib.from_json(workdir / "config.json")
            write_model_card(workdir, dict(config_lib.flatten(config)))

        tried("reports", report)
        for file, data in content.items():
            assert data is None or (workdir / file).read_bytes() == data


STATES = {
    step: {
        "params": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4)},
        "step": jnp.int32(step),
    }
    for step in (10, 20)
}
LIKE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), STATES[10])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Two checkpoints, of steps 10 and 20, in a directory to be copied."""
    directory = tmp_path_factory.mktemp("good") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        for step, state in STATES.items():
            checkpoints.save(step, state, val_accuracy=1 / step)
    return directory


@st.composite
def damages(draw):
    """What happens to the newer checkpoint, as a function of its path."""
    kind = draw(st.sampled_from(["file", "file", "file", "facts", "files", "foreign", "gone"]))
    number = draw(st.integers(0, 50))
    if kind == "file":
        cut = draw(st.floats(0, 1))
        flip = draw(st.sampled_from(["flip", "truncate", "append", "remove", "directory", "pipe"]))
        return lambda path: damage_file(path, number, flip, cut)
    if kind in ("facts", "files"):
        key = draw(st.sampled_from([*(field.name for field in fields(Metadata)), "new"]))
        inner = st.dictionaries(st.sampled_from(["params/bias", "../20/x", "/"]), NUMBERS)
        value = draw(NUMBERS | inner | st.just({"bytes": 3, "sha256": "0"}))
        whole = draw(st.booleans())
        return lambda path: resealed(path, kind, None if whole else key, value)
    if kind == "foreign":
        data = draw(st.binary(max_size=9))
        name = draw(st.sampled_from(["weights.bin", "_CHECKPOINT_METADATA", "manifest.json"]))
        return lambda path: (shutil.rmtree(path), path.mkdir(), (path / name).write_bytes(data))
    return lambda path: (shutil.rmtree(path), path.mkdir())


def damage_file(path, number, kind, part):
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = files[number % len(files)]
    content = bytearray(file.read_bytes())
    at = int(part * len(content))
    if kind == "flip" and at < len(content):
        content[at] ^= 1 << number % 8
    elif kind == "truncate":
        del content[at:]
    elif kind == "append":
        content += b"x"
    file.unlink()
    if kind == "directory":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind != "remove":
        file.write_bytes(content)


def resealed(path, part, key, value):
    """Another program's or version's manifest: its own checksum holds."""
    manifest = path / manifest_lib.MANIFEST
    content = json.loads(manifest.read_bytes())
    del content["sha256"]
    content[part] = value if key is None else {**content[part], key: value}
    content["sha256"] = files.digest(content)
    manifest.write_text(json.dumps(content))


@cases(few=15, share=0.5)
@given(damages())
def test_checkpoints(checkpoint, damage):
    """Evaluation refuses or takes what was asked for; training takes that or the older, renames."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name, "checkpoints")
        shutil.copytree(checkpoint, directory)
        damage(directory / "20")
        before = files_of(directory)

        def evaluate(which):
            with open_quietly(directory) as checkpoints:
                return checkpoints.restore(which, LIKE)

        def resume():
            with open_quietly(directory) as checkpoints:
                return checkpoints.restore_newest(LIKE)

        found = {
            which: tried("checkpoints, evaluated", lambda w=which: evaluate(w))
            for which in ("best", "latest", "20")
        }
        assert files_of(directory) == before
        found["resumed"] = tried("checkpoints, resumed", resume)
        for which, (step, state, *_) in ((w, f) for w, f in found.items() if f):
            assert step == 20 or which in ("best", "resumed")
            jax.tree.map(np.testing.assert_array_equal, state, STATES[step])
        after = files_of(directory)
        assert sorted(before.values()) == sorted(after.values()), "renamed at most"


def open_quietly(directory):
    return Checkpoints(directory, log=lambda line: None)


def files_of(directory):
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    values = keras3_values("external", depth=1)
    (folder / "x.weights.h5").write_bytes(keras_files.weights_h5(values))
    write_keras_archive(folder / "x.keras", values)
    legacy_h5(folder / "x.h5", values, "external")
    return {path: path.read_bytes() for path in folder.iterdir()}


@cases(few=20, share=0.5)
@given(
    st.integers(0, 2), st.floats(0, 1), st.integers(0, 255), st.sampled_from(["set", "cut", "no"])
)
def test_keras_weights(weights, index, part, byte, kind):
    path, content = sorted(weights.items())[index]
    at = int(part * len(content))
    if kind == "set":
        content = content[:at] + bytes([byte]) + content[at + 1 :]
    elif kind == "cut":
        content = content[:at]
    path.write_bytes(content)

    def read():
        found = keras_files.read(path)
        return to_params(found, infer(found, image_size=(8, 8), channels=3))

    assert tried("Keras weights", read) is not None or kind != "no"
