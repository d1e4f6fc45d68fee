import itertools
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet.errors import UserError
from eanet.sweeps import command, spec
from eanet.sweeps import plan as plan_lib
from eanet.sweeps.estimate import RunSize
from tests.helpers.sweep_records import finished_run

CONFIGS = Path(__file__).parents[2] / "configs"
NAMED = {
    "eanet_cifar100": {
        "memory_size": 21, "embed_dim": 15, "memory_and_width": 36, "attention": 12, "norm": 12,
        "seeds": 10,
    },
    "eanet_cifar100_fast": {
        "memory_size": 21, "heads": 15, "norm": 12, "attention": 12, "elements": 42,
        "options": 9,
    },
    "eanet_digits": {"memory_size": 6},
}  # fmt: skip


def base():
    return config_lib.load_module(CONFIGS / "testing.py").get_config()


def module(**functions):
    made = ModuleType("made")
    made.__file__ = "made.py"
    vars(made).update(functions)
    return made


def plan(definition, **functions):
    return plan_lib.plan(definition, module(**functions), base())


def test_products_zips_and_chains_of_axes():
    memory, width = spec.axis("S", 4, 8), spec.axis("d", 1, 2)
    assert list(spec.product(memory, width)) == [
        {"S": 4, "d": 1}, {"S": 4, "d": 2}, {"S": 8, "d": 1}, {"S": 8, "d": 2}
    ]  # fmt: skip
    assert list(spec.zip_(memory, width)) == [{"S": 4, "d": 1}, {"S": 8, "d": 2}]
    assert list(spec.chain(memory, width)) == [{"S": 4}, {"S": 8}, {"d": 1}, {"d": 2}]
    assert spec.seeds(2, first=5) == [{"seed": 5}, {"seed": 6}]
    with pytest.raises(ValueError, match="S is set twice"):
        list(spec.product(memory, memory))
    with pytest.raises(ValueError, match="longer"):
        list(spec.zip_(memory, spec.seeds(3)))


@settings(deadline=None, max_examples=30)
@given(
    memory=st.lists(st.integers(1, 300), min_size=1, max_size=4, unique=True),
    rates=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=3, unique=True),
    seeds=st.tuples(st.integers(-5, 5), st.integers(0, 3)),
    final=st.sampled_from(["true", "false", "true,false"]),
)
def test_a_definition_on_the_command_line_is_the_product_of_its_values(memory, rates, seeds, final):
    first, more = seeds
    text = (
        f"model.memory_size={','.join(map(str, memory))};optimizer.learning_rate="
        f"{','.join(map(repr, rates))}; seed={first}..{first + more};model.final_norm={final}"
    )
    runs = plan(text).runs
    expected = itertools.product(
        memory, rates, range(first, first + more + 1), [each == "true" for each in final.split(",")]
    )
    found = [
        (r.config.model.memory_size, r.config.optimizer.learning_rate, r.config.seed,
         r.config.model.final_norm)
        for r in runs
    ]  # fmt: skip
    # Seed by seed.
    assert found == sorted(expected, key=lambda each: each[2])
    assert len({run.name for run in runs}) == len({run.digest for run in runs}) == len(runs)


def test_a_run_is_its_resolved_config_and_named_after_what_it_overrides():
    (run,) = plan("model.memory_size=4;optimizer.learning_rate=1e-3;seed=3").runs
    assert run.name == "memory_size=4,learning_rate=0.001,seed=3"
    changed = {key for key, _, _ in config_lib.differences(base(), run.config)}
    assert changed == {"model.memory_size", "optimizer.learning_rate", "seed"}
    same = plan("seed=3;optimizer.learning_rate=0.001;model.memory_size=4").runs[0]
    assert same.digest == run.digest
    names = [run.name for run in plan("optimizer.name=sgd;dataset.name=digits").runs]
    assert names == ["optimizer.name=sgd,dataset.name=digits"]


def test_values_that_would_share_a_directory_do_not():
    runs = plan("x", sweep_x=lambda: spec.axis("dataset.name", "folder:a/b", "folder:a:b")).runs
    assert len({run.name for run in runs}) == 2 and not any("/" in run.name for run in runs)
    sized = plan("dataset.image_size=(8,8),[16, 32],None;dataset.resize=squash,crop").runs
    sizes = [run.config.dataset.image_size for run in sized]
    assert sizes == [(8, 8), (8, 8), (16, 32), (16, 32), None, None]
    (run,) = plan("x", sweep_x=lambda: spec.axis("dataset.name", "folder:" + "a" * 300)).runs
    assert len(run.name) < 140


def test_identical_and_confounded_runs_are_warned_of():
    twice = plan("x", sweep_x=lambda: [{"seed": 0}, {"seed": 1}, {"num_epochs": 2}])
    assert [run.name for run in twice.runs] == ["seed=0", "seed=1"]
    assert twice.warnings == ("num_epochs=2.0 is identical to seed=0: they run only once",)
    together = plan(
        "x",
        sweep_x=lambda: spec.product(
            spec.zip_(spec.axis("model.memory_size", 4, 8), spec.axis("model.embed_dim", 8, 16)),
            spec.seeds(2),
        ),
    )
    assert together.warnings == (
        "model.memory_size and model.embed_dim always change together: their effects cannot be "
        "told apart",
    )
    assert plan("model.memory_size=4,8;model.embed_dim=8,16;seed=0..1").warnings == ()


@pytest.mark.parametrize(
    ("definition", "functions", "parts"),
    [
        ("memory_sise", {"sweep_memory_size": list}, ["memory_sise", "memory_size?"]),
        ("x", {}, ["made.py has no sweep 'x'", "none"]),
        ("x", {"sweep_x": list}, ["sweep_x of made.py", "returns [], but must return runs"]),
        ("x", {"sweep_x": lambda: [{"model.memory_sise": 4}]},
         ["sweep_x, run 1", "model.memory_sise", "model.memory_size?"]),
        ("x", {"sweep_x": lambda: [{"seed": 0}, {"model.memory_size": "4"}]},
         ["sweep_x, run 2", "model.memory_size must be a whole number, not '4'"]),
        ("x", {"sweep_x": lambda: [{"model.memory_size": True}]}, ["a whole number, not True"]),
        ("x", {"sweep_x": lambda: [{"model.memory_size": 4.0}]}, ["a whole number, not 4.0"]),
        ("x", {"sweep_x": lambda: [{"model": {}}]}, ["unknown config key 'model'"]),
        ("x", {"sweep_x": lambda: [7]}, ["must be a dict of overrides, not 7"]),
        ("x", {"sweep_x": lambda: [{7: 1}]}, ["run 1", "{7: 1}"]),
        ("x", {"sweep_x": lambda: "seed"}, ["returns 'seed', but must return runs"]),
        ("x", {"sweep_x": lambda: 1 / 0}, ["sweep_x of made.py, line", "ZeroDivisionError"]),
        ("x", {"sweep_x": lambda: spec.zip_(spec.seeds(2), spec.seeds(2))}, ["seed is set"]),
        ("model.memory_sise=4", {}, ["--sweep", "model.memory_sise", "model.memory_size?"]),
        ("model.memory_size=many", {}, ["--sweep: model.memory_size=many must be a whole number"]),
        ("model.final_norm=2", {}, ["model.final_norm=2 must be true or false"]),
        ("num_epochs=1..3", {}, ["num_epochs=1..3 must be a number"]),
        ("seed=3..1", {}, ["seed=3..1 is an empty range"]),
        ("seed=0..99999999999", {}, ["has more values than the 10,000 runs of a sweep"]),
        ("seed=0..199;model.memory_size=1..99", {}, ["a sweep has at most 10,000 runs"]),
        ("seed=1;seed=2", {}, ["seed stands twice"]),
        ("seed=1;model.memory_size", {}, ["'model.memory_size' is not of the form"]),
        ("seed=", {}, ["'seed=' is not of the form"]),
        (";=;", {}, ["'=' is not of the form"]),
    ],
)  # fmt: skip
def test_a_bad_definition_is_one_clear_line(definition, functions, parts):
    with pytest.raises(UserError) as refusal:
        plan(definition, **functions)
    message = str(refusal.value)
    assert "\n" not in message and all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("space", "parts"),
    [
        ({}, ["search_x", "returns {}, but must return {key: Between"]),
        (None, ["search_x", "line", "returns None"]),
        ({"model.memory_sise": spec.OneOf(4)}, ["search_x", "model.memory_size?"]),
        ({"model.memory_size": [4, 8]}, ["model.memory_size needs Between(...) or OneOf(...)"]),
        ({"model.memory_size": spec.OneOf()}, ["needs"]),
        ({"model.memory_size": spec.OneOf(4, "8")}, ["a whole number, not '8'"]),
        ({"model.memory_size": spec.Between(4, 8.5)}, ["a whole number, not 8.5"]),
        ({"optimizer.learning_rate": spec.Between(1e-2, 1e-3)}, ["empty range"]),
        ({"optimizer.learning_rate": spec.Between(0, math.inf)}, ["without end"]),
        ({"optimizer.learning_rate": spec.Between(math.nan, 1)}, ["empty range"]),
        ({"model.final_norm": spec.Between(False, True)}, ["is no number; give OneOf"]),
        ({7: spec.OneOf(4)}, ["search_x", "{7: 4}"]),
        ({"optimizer.learning_rate": spec.Between(0.0, 1.0, log=True)}, ["empty range"]),
    ],
)
def test_a_bad_space_is_one_clear_line(space, parts):
    with pytest.raises(UserError) as refusal:
        plan_lib.search_space("x", module(search_x=lambda: space), base())
    message = str(refusal.value)
    assert "\n" not in message and all(part in message for part in parts), message


def options(directory, **changes):
    values = {"storage": None, "workers": 1, "dry_run": False, "command": lambda _: ["false"]}
    return command.Options(directory=directory, **{**values, **changes})


def run_grid(directory, definition, size=lambda _: RunSize(1000, 2000, 300), **changes):
    config = base().lock()
    command.run_grid(definition, config, module(), options(directory, **changes), size)


def test_an_impossible_run_is_refused_before_anything_is_written(tmp_path):
    def size(config: ConfigDict):
        if config.model.memory_size == 0:
            raise UserError("model.memory_size must be at least 1, not 0")
        return RunSize(1, 1, 1)

    directory = tmp_path / "sweep"
    with pytest.raises(UserError, match=r"run memory_size=0: model.memory_size must be at least 1"):
        run_grid(directory, "model.memory_size=4,0", size)
    with pytest.raises(UserError, match="--workers must be at least 1, not 0"):
        run_grid(directory, "seed=0", workers=0)
    for dry_run in (False, True):
        with pytest.raises(UserError, match="sqlite:///nowhere"):
            run_grid(directory, "seed=0", storage="nowhere", dry_run=dry_run)
    assert not directory.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        run_grid(tmp_path / "file" / "sweep", "seed=0")


def test_a_directory_of_another_config_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "seed=1").mkdir()
    other = base()
    other.update(seed=1, num_epochs=9.0)
    (tmp_path / "seed=1" / "config.json").write_bytes(config_lib.to_json(other))
    with pytest.raises(UserError, match=r"num_epochs is 9.0 there, 2.0 here"):
        run_grid(tmp_path, "seed=0..2")
    assert not (tmp_path / "seed=0").exists()


def test_a_dry_run_lists_the_runs_and_writes_nothing(tmp_path, capsys):
    finished_run(tmp_path / "other", macs=4000)
    size = lambda config: RunSize(1000, 1000 * config.model.memory_size, 16, 8)  # noqa: E731
    arguments = tmp_path / "sweep", "model.memory_size=4,16,64;seed=0..1", size
    run_grid(*arguments, dry_run=True, workers=2)
    said = capsys.readouterr().out
    assert "6 runs" in said and not (tmp_path / "sweep").exists()
    rows = [line.split() for line in said.splitlines() if line.startswith("memory_size=")]
    assert rows[0][:4] == ["memory_size=4,seed=0", "1,000", "4.0", "k"] and rows[0][5:] == ["s"]
    assert rows[4][:4] == ["memory_size=16,seed=1", "1,000", "16.0", "k"]
    # What is not proportional to the MACs is 7 s in each.
    one, four = (float(row[4]) - 7 for row in (rows[0], rows[4]))
    assert four == pytest.approx(4 * one, abs=0.3) and one > 1
    assert rows[5][-1] == "?" and "No time is known of 2 runs" in said
    assert f"in all for the others with 2 at once, as measured in {tmp_path / 'other'}" in said


@pytest.mark.parametrize("name", NAMED)
def test_the_named_sweeps_are_what_they_say(name):
    loaded = config_lib.load_module(CONFIGS / f"{name}.py")
    config = loaded.get_config()
    named = {n.removeprefix("sweep_") for n in vars(loaded) if n.startswith("sweep_")}
    assert named == set(NAMED[name])
    for each, count in NAMED[name].items():
        planned = plan_lib.plan(each, loaded, config)
        assert len(planned.runs) == count
        # More heads are less wide, and another optimizer has a rate of its own.
        assert bool(planned.warnings) == (each in ("heads", "elements"))
    for each in [n for n in vars(loaded) if n.startswith("search_")]:
        assert plan_lib.search_space(each, loaded, config)


def sizes_of_attentions(name):
    from eanet.models import costs
    from eanet.training.run import build_model

    loaded = config_lib.load_module(CONFIGS / f"{name}.py")
    runs = plan_lib.plan("attention", loaded, loaded.get_config()).runs
    runs = [run for run in runs if run.config.seed == 0]
    models = [build_model(run.config, 100, (32, 32, 3)).abstract for run in runs]
    return [costs.totals(costs.summarize(model)) for model in models]


@pytest.mark.slow
def test_attentions_are_matched_in_the_sweeps_that_say_so():
    external, as_wide, parameters, multiply_adds = sizes_of_attentions("eanet_cifar100")
    assert external == (361_380, 84_089_088)
    assert as_wide == (623_268, 419_633_408)
    assert math.isclose(parameters[0], external[0], rel_tol=0.02)
    assert math.isclose(multiply_adds[1], external[1], rel_tol=0.02)
    external, parameters, multiply_adds, none = sizes_of_attentions("eanet_cifar100_fast")
    assert external == (417_444, 25_368_832)
    assert math.isclose(parameters[0], external[0], rel_tol=0.02)
    assert math.isclose(multiply_adds[1], external[1], rel_tol=0.02)
    assert math.isclose(none[0], external[0], rel_tol=0.02) and none[1] == external[1]


def test_references_follow_in_sweeps_and_searches():
    config = base()
    config.model.mlp_dim = config.model.get_ref("embed_dim") * 2
    runs = plan_lib.plan("model.embed_dim=16,24", module(), config).runs
    assert [run.config.model.mlp_dim for run in runs] == [32, 48]
    followers = plan_lib.followers(config, [run.config for run in runs], ["model.embed_dim"])
    assert followers == ["model.mlp_dim"]


def test_the_type_of_the_key_decides_what_is_between():
    space = {"optimizer.weight_decay": spec.Between(0, 1), "model.memory_size": spec.Between(1, 9)}
    found = plan_lib.search_space("x", module(search_x=lambda: space), base())
    decay, memory = found.values()
    assert isinstance(decay.low, float) and isinstance(decay.high, float)
    assert isinstance(memory.low, int) and isinstance(memory.high, int)


def test_scalars_of_numpy_are_the_numbers_that_they_are():
    rates = np.array([1e-4, 1e-3])
    made = plan("x", sweep_x=lambda: spec.product(
        spec.axis("optimizer.learning_rate", *rates),
        spec.axis("model.memory_size", *np.array([4, 8])),
    ))  # fmt: skip
    assert [type(run.config.optimizer.learning_rate) for run in made.runs] == [float] * 4
    assert made.runs[0].name == "learning_rate=0.0001,memory_size=4"
    (same,) = plan("optimizer.learning_rate=0.0001;model.memory_size=4").runs
    assert made.runs[0].digest == same.digest
