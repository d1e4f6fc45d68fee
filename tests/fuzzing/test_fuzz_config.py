"""Whatever stands on the command line or in a `config.json`: it works, or one line refuses it."""

import json
import shutil
import sys
import tempfile
from itertools import chain
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from hypothesis import example, given
from hypothesis import strategies as st

from eanet import config as config_lib
from eanet import config_flags
from eanet.rules import NameIn, Number, Switch
from eanet.training import config_schema
from eanet.training import run as run_lib
from eanet.workdir.claim import LOCK, claimed
from tests.helpers.fuzz import cases, mutated, tried

TESTING = str(Path(__file__).parents[2] / "configs" / "testing.py")


def small():
    """The config that is changed: a block builds faster than two."""
    config = config_lib.load(TESTING)
    config.model.depth = 1
    return config


VALID = small().to_dict()
KEYS = list(config_schema.all_rules())


@pytest.fixture(autouse=True, scope="module")
def own_directories():
    """Nothing of the user's, and no network."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", name)
        patch.setenv("TFDS_DATA_DIR", name)
        patch.setenv("EANET_CIFAR_MIRROR", "http://127.0.0.1:9")
        patch.setenv("no_proxy", "*")
        yield


def possible(rule):
    """Values that a rule allows, small enough to build a model of."""
    if isinstance(rule, Number):
        if rule.whole:
            return st.integers(rule.least, min(rule.most, 40))
        return st.floats(
            rule.least, rule.most, exclude_min=rule.above, exclude_max=rule.below
        ) | st.sampled_from([rule.least + 0.1, rule.least + 0.5])
    if isinstance(rule, NameIn):
        return st.sampled_from(list(rule.names))
    if isinstance(rule, Switch):
        return st.booleans()
    return st.sampled_from(["digits", ""])


STRANGE = ["", "nan", "inf", "-inf", "-1", "0", "1e400", "1e-400", "-0.0", "9" * 5000]
STRANGE += ["0x" + "f" * 5000, "None", "True", "[1, 2]", "{}", "1_000", "٣", "é ∞ \u202e", "\udcff"]
STRANGE += ["folder:", "folder:/", "folder:~nobody/x", "folder:" + "x" * 300, "~nobody", "x" * 5000]
STRANGE += ["cifar100", "cifar10:9.9.9", "mnist/", "digit", "/etc/passwd", "external\n", "\x1b[31m"]
TEXTS = st.one_of(
    st.sampled_from(STRANGE),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
)
ARGUMENTS = st.one_of(
    st.sampled_from(KEYS).flatmap(
        lambda key: (possible(config_schema.all_rules()[key]).map(str) | TEXTS).map(
            lambda value: [f"--config.{key}={value}"]
        )
    ),
    st.tuples(st.sampled_from(KEYS), TEXTS).map(lambda x: [f"--config.{x[0]}", x[1]]),
    st.tuples(TEXTS, TEXTS).map(lambda x: [f"--config.{x[0]}={x[1]}"]),
    st.sampled_from(KEYS).map(lambda key: [f"--config.{key}"]),
    st.sampled_from(KEYS).map(lambda key: [f"--noconfig.{key}"]),
    st.tuples(st.sampled_from(["model", "model.", "", "model.depth.x", "seed[0]"]), TEXTS).map(
        lambda x: [f"-config.{x[0]}={x[1]}"]
    ),
    TEXTS.map(lambda text: [f"--config={text}"]),
    TEXTS.map(lambda text: [text]),
)


def quick(config) -> bool:
    """Whether it is built in a moment: what a thousand blocks take is not of interest here."""
    depth = config.get("model", {}).get("depth")
    return not isinstance(depth, int) or not 20 < depth <= 1000


def set_up(config):
    return run_lib.set_up(config, lambda line: None) if quick(config.to_dict()) else None


def set_up_from(arguments):
    """What `main.py` does with its arguments, up to the first step."""
    arguments = ["main.py", f"--config={TESTING}", "--config.model.depth=1", *arguments]
    flag_values = flags.FlagValues()
    holder = config_flags.DEFINE_config(flag_values=flag_values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        config_flags.parse(arguments, flag_values)
    return set_up(holder.value)


@cases(few=30)
@given(st.lists(ARGUMENTS, min_size=1, max_size=3).map(lambda x: list(chain(*x))))
@example(["--config.num_epochs=1e308"])
@example(["--config.eval_every_epochs=1e-300"])
@example(["--config.seed=-1", "--config.dataset.val_split=random"])
@example([f"--config.seed=0x{'f' * 5000}"])
@example(["--config.dataset.name=mnist", "--config.dataset.data_dir=~nobody"])
@example(["--config.dataset.name=mnist", f"--config.dataset.data_dir={'x' * 300}"])
@example([f"--config.dataset.name={'x' * 300}"])
@example([f"--config.dataset.name=folder:{'x' * 300}"])
def test_command_lines(arguments):
    run = tried("command lines", lambda: set_up_from(arguments))
    if run is not None:
        walk_through(run.plan)


def walk_through(plan):
    """The first events come one after another, and each is found at once."""
    step = 0
    for _ in range(3):
        later = plan.next_event(step)
        assert step < later <= plan.total_steps or step == plan.total_steps
        step = later


def extremes(key):
    """The ends of what the rule of a key allows, where a model of them is small."""
    rule = config_schema.all_rules()[key]
    if not isinstance(rule, Number):
        return possible(rule)
    ends = [rule.least, min(rule.most, 64) if rule.whole else rule.most]
    if not rule.whole:
        ends += [np.nextafter(rule.least, 1).item(), np.nextafter(rule.most, 0).item(), 1e-40]
    return st.sampled_from([end for end in ends if rule.allows(end)])


@pytest.mark.slow
@cases(few=3, share=0.15)
@given(
    st.lists(st.sampled_from([key for key in KEYS if key != "dataset.name"]), max_size=4).flatmap(
        lambda keys: st.fixed_dictionaries({key: extremes(key) for key in keys})
    )
)
@example({"model.dropout_rate": 0.999})
def test_what_is_accepted_can_be_trained(values):
    """At least as far as its program can be traced."""
    config = small()
    config.update_from_flattened_dict(values)
    run = tried("values at their limits", lambda: set_up(config))
    if run is None:
        return
    walk_through(run.plan)
    images, labels = run.dataset.train.images, run.dataset.train.labels
    order = jax.ShapeDtypeStruct((len(labels) + config.batch_size,), np.int32)
    train_steps = run.make_train_steps()
    jax.eval_shape(train_steps, run.abstract_state(), images, labels, order, run.seed, 0, 0, 1)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, "\ud800", "\0", "x" * 5000, "folder:\0", "~nobody"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["items", "a.b", "model"]), inner)
    ),
    max_leaves=8,
)
PLACES = st.sampled_from([*KEYS, "model", "dataset", "augment", "optimizer", "new", "model.new"])


def changed(values: dict, place: str, value, remove: bool) -> dict:
    """A copy with another value, or none, at a place such as `model.depth`."""
    section, _, key = place.rpartition(".")
    values = {name: dict(x) if isinstance(x, dict) else x for name, x in values.items()}
    target = values.get(section, {}) if section else values
    if isinstance(target, dict):
        target.pop(key, None) if remove else target.update({key: value})
    return values


TEXT = json.dumps(VALID, indent=2).encode()
CONFIG_FILES = st.one_of(
    st.builds(changed, st.just(VALID), PLACES, JSON, st.booleans()).map(
        lambda values: json.dumps(values).encode()
    ),
    st.sampled_from(KEYS).flatmap(
        lambda key: possible(config_schema.all_rules()[key]).map(
            lambda value: json.dumps(changed(VALID, key, value, False)).encode()
        )
    ),
    mutated(TEXT),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=30),
    st.sampled_from(
        [
            b'{"model": ' * 100_000,
            b'{"model":' + b'{"x":' * 300 + b"1" + b"}" * 301,
            b'{"model": {}, "model": {"depth": 1}}',
            TEXT.replace(b'"depth": 1', b'"depth": 1' + b"0" * 5000),
            TEXT.replace(b'"depth": 1', b'"depth": 1, "depth": 3'),
            TEXT.decode().encode("utf-16"),
            b"\xef\xbb\xbf" + TEXT,
            TEXT + b"\xff",
        ]
    ),
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def claim(workdir):
    with claimed(workdir, small(), print):
        pass


@cases(few=30)
@given(CONFIG_FILES)
@example(json.dumps(VALID | {"seed": -1, "dataset": VALID["dataset"] | {"val_split": "random"}}))
@example(json.dumps(VALID | {"items": 1}))
@example(json.dumps(VALID | {"a.b": 1}))
@example(json.dumps(VALID | {"dataset": VALID["dataset"] | {"name": "folder:\0"}}))
@example(json.dumps(VALID | {"num_epochs": True}))
def test_config_files(workdir, content):
    content = content.encode() if isinstance(content, str) else content
    path = workdir / "config.json"
    path.write_bytes(content)
    tried("config.json, evaluated", lambda: set_up(config_schema.read(path)))
    tried("config.json, resumed", lambda: claim(workdir))
    assert path.read_bytes() == content
    assert {each.name for each in workdir.iterdir()} <= {"config.json", LOCK}
    shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
