import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eanet import rules
from eanet.errors import UserError
from eanet.models.eanet import EANet
from eanet.models.functional import split_model
from eanet.training import optimizer as optimizer_lib
from eanet.training.optimizer import OPTIMIZERS, RULES, SCHEDULES, OptimizerOptions, make_schedule

DECAYS = ("matrices", "all")


def make_optimizer(name, learning_rate, kernels, **options):
    schedule = optax.constant_schedule(learning_rate)
    return optimizer_lib.make_optimizer(OptimizerOptions(name, **options), schedule, kernels)


def example(seed=0):
    """Parameters of a linear map, and which of them are kernels."""
    rng = np.random.default_rng(seed)
    params = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params), {
        "kernel": "io",
        "bias": "",
    }


def update(optimizer, params, *gradients):
    state = optimizer.init(params)
    step = jax.jit(lambda gradient, state, params: optimizer.update(gradient, state, params))
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("decay", DECAYS)
def test_adamw_is_the_published_update(decay):
    """Loshchilov and Hutter (arXiv 1711.05101), decay coupled to the learning rate only."""
    params, kernels = example()
    gradients = [example(seed)[0] for seed in (1, 2, 3)]
    rate, weight_decay, b1, b2, epsilon = 0.01, 0.3, 0.8, 0.95, 1e-7
    optimizer = make_optimizer(
        "adamw",
        rate,
        kernels,
        weight_decay=weight_decay,
        decay=decay,
        b1=b1,
        b2=b2,
        epsilon=epsilon,
    )
    updated = update(optimizer, params, *gradients)
    for name, value in params.items():
        value = np.asarray(value, np.float64)
        first = second = 0.0
        for step, gradient in enumerate(gradients, 1):
            gradient = np.asarray(gradient[name], np.float64)
            first = b1 * first + (1 - b1) * gradient
            second = b2 * second + (1 - b2) * gradient**2
            direction = first / (1 - b1**step) / (np.sqrt(second / (1 - b2**step)) + epsilon)
            decayed = weight_decay if decay == "all" or kernels[name] else 0.0
            value = value - rate * (direction + decayed * value)
        np.testing.assert_allclose(updated[name], value, rtol=1e-5)


def test_the_examples_decay_subtracts_1e_4_of_each_weight():
    """TensorFlow Addons' 1e-4, for every variable, is 0.1 at a learning rate of 1e-3."""
    params, kernels = example()
    zero = jax.tree.map(jnp.zeros_like, params)
    optimizer = make_optimizer("adamw", 1e-3, kernels, weight_decay=0.1, decay="all")
    updated = update(optimizer, params, zero)
    for name, value in params.items():
        np.testing.assert_allclose(updated[name], value * (1 - 1e-4), rtol=1e-6)


@pytest.mark.parametrize("norm, scale", [(0.5, 0.1), (50.0, 1.0)])
def test_gradients_are_clipped_to_the_global_norm(norm, scale):
    params, kernels = example()
    gradient = {"kernel": jnp.zeros((3, 4)).at[0, 0].set(3.0), "bias": jnp.array([4.0, 0, 0, 0])}
    optimizer = make_optimizer("sgd", 1.0, kernels, momentum=0.0, clip_norm=norm)
    updated = update(optimizer, params, gradient)
    for name, value in params.items():
        np.testing.assert_allclose(value - updated[name], scale * gradient[name], atol=1e-6)


def test_sgd_has_nesterov_momentum():
    params, kernels = example()
    gradients = [example(seed)[0] for seed in (1, 2)]
    optimizer = make_optimizer("sgd", 0.1, kernels, momentum=0.9)
    updated = update(optimizer, params, *gradients)
    for name, value in params.items():
        first, second = (gradient[name] for gradient in gradients)
        steps = 1.9 * first + (0.81 * first + 1.9 * second)
        np.testing.assert_allclose(updated[name], value - 0.1 * steps, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_descends(name):
    params, kernels = example()
    goal = example(1)[0]
    optimizer = make_optimizer(name, 0.03, kernels)

    def loss(params):
        return optax.tree.norm(jax.tree.map(jnp.subtract, params, goal), squared=True)

    def step(_, carry):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    run = jax.jit(lambda params: jax.lax.fori_loop(0, 20, step, (params, optimizer.init(params))))
    trained = run(params)[0]
    assert loss(trained) < 0.8 * loss(params)
    for name in params:  # each part of it
        assert jnp.linalg.norm(trained[name] - goal[name]) < jnp.linalg.norm(
            params[name] - goal[name]
        )


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adam"])
def test_which_parameters_decay(name, decay):
    params, kernels = example()
    zero = jax.tree.map(jnp.zeros_like, params)
    optimizer = make_optimizer(name, 0.1, kernels, weight_decay=0.5, decay=decay, momentum=0.0)
    updated = update(optimizer, params, zero)
    np.testing.assert_allclose(updated["kernel"], 0.95 * params["kernel"], rtol=1e-5)
    shrunk = 0.95 if decay == "all" else 1.0
    np.testing.assert_allclose(updated["bias"], shrunk * params["bias"], rtol=1e-5)


def test_kernels_are_the_kernels_of_linear_maps():
    kernels = split_model(
        lambda rngs: EANet(5, (4, 4, 1), depth=1, final_norm=True, rngs=rngs)
    ).kernels
    flags = {
        ".".join(str(part.key) for part in path): flag
        for path, flag in jax.tree.leaves_with_path(kernels)
    }
    attention = ("query_kernel", "key_memory", "value_memory", "out_kernel")
    assert {name for name, flag in flags.items() if flag} == {
        "patch_embed.projection.kernel",
        *(f"blocks.attention.{name}" for name in attention),
        "blocks.mlp.hidden.kernel",
        "blocks.mlp.out.kernel",
        "head.kernel",
    }
    assert {"patch_embed.position_embedding", "blocks.mlp_norm.scale", "head.bias"} <= set(flags)


def test_muon_orthogonalises_each_kernel_as_the_matrix_that_it_is():
    """All singular values of a kernel's update are about the same; the rest follows Adam."""
    rng = np.random.default_rng(0)

    def conditioned(*shape):
        return (np.linalg.qr(rng.normal(size=(6, 6)))[0] * np.linspace(1, 2, 6)).reshape(shape)

    gradient = {
        "attention": {
            "query_kernel": conditioned(6, 2, 3),  # d → heads of width 3
            "out_kernel": conditioned(2, 3, 6),  # and back
            "out_bias": rng.normal(size=6),
        },
        "mlp": {"kernel": conditioned(6, 6), "position_embedding": rng.normal(size=(4, 6))},
        "blocks": {  # two blocks, each with kernels of its own
            "query_kernel": np.stack([conditioned(6, 2, 3), 5 * conditioned(6, 2, 3)]),
            "out_kernel": np.stack([conditioned(2, 3, 6), 5 * conditioned(2, 3, 6)]),
        },
    }
    gradient = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), gradient)
    axes = {"query_kernel": "ioo", "out_kernel": "iio", "kernel": "io"}
    kernels = jax.tree.map_with_path(lambda path, _: axes.get(path[-1].key, ""), gradient)
    optimizer = make_optimizer("muon", 1.0, kernels)
    steps = update(optimizer, jax.tree.map(jnp.zeros_like, gradient), gradient)
    for step, is_matrix in zip(jax.tree.leaves(steps), jax.tree.leaves(kernels), strict=True):
        if is_matrix:
            singular = np.linalg.svd(step.reshape(-1, 6, 6), compute_uv=False)
            assert singular.max() / singular.min() < 1.8
        else:  # Adam's first step is as large for every entry.
            assert np.ptp(np.abs(step)) < 1e-3


def values(name, steps, warmup_steps=0):
    options = OptimizerOptions(learning_rate=2.0, schedule=name)
    schedule = make_schedule(options, 100, warmup_steps)
    return [float(rate) for rate in jax.jit(jax.vmap(schedule))(jnp.array(steps))]


def test_schedules_at_known_points():
    assert values("constant", (0, 50, 99)) == [2, 2, 2]
    np.testing.assert_allclose(values("cosine", (0, 50, 100)), [2, 1, 0], atol=1e-6)

    np.testing.assert_allclose(
        values("constant", (0, 5, 10, 20, 99), 20), [0, 0.5, 1, 2, 2], atol=1e-6
    )
    np.testing.assert_allclose(
        values("cosine", (0, 10, 20, 60, 100), 20), [0, 1, 2, 1, 0], atol=1e-6
    )


@pytest.mark.parametrize("warmup_steps, peak", [(0, 30), (10, 10)])
def test_one_cycle_rises_to_its_peak_and_falls_below_its_start(warmup_steps, peak):
    rates = values("one_cycle", range(101), warmup_steps)
    assert int(np.argmax(rates)) == peak and rates[peak] == pytest.approx(2.0)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < rates[0] < 0.1


@pytest.mark.parametrize(
    ("name", "warmup_steps", "end", "joint", "rises"),
    [
        ("cosine", 0, 0.0, 1 + np.cos(np.pi / 4), False),
        ("cosine", 10, 0.0, 1 + np.cos(np.pi / 5), False),
        # The rise is 30 % of the new length: 48 steps, from a 25th of the peak.
        ("one_cycle", 0, 2 / 250_000, 1.04 - 0.96 * np.cos(np.pi * 40 / 48), True),
        ("one_cycle", 10, 2 / 250_000, 1 + np.cos(np.pi / 5), False),
    ],
)
def test_a_longer_training_goes_on_by_the_schedule_of_its_length(
    name, warmup_steps, end, joint, rises
):
    """Forty steps, and then a hundred and twenty more with the state of the optimizer."""
    options = OptimizerOptions(name="sgd", momentum=0.0, learning_rate=2.0, schedule=name)
    params, kernels = {"bias": jnp.zeros(1)}, {"bias": ""}
    state, rates = optimizer_lib.make_optimizer(options, lambda _: 0.0, kernels).init(params), []
    for first, total in ((0, 40), (40, 160)):
        schedule = make_schedule(options, total, warmup_steps)
        update = jax.jit(optimizer_lib.make_optimizer(options, schedule, kernels).update)
        for step in range(first, total):
            updates, state = update({"bias": jnp.ones(1)}, state, params)
            rates.append(-float(updates["bias"][0]))
            assert rates[-1] == pytest.approx(float(schedule(step)), abs=1e-6)
        assert float(schedule(total)) == pytest.approx(end, abs=1e-7)
    assert rates[39] < 0.02 and rates[40] == pytest.approx(joint, rel=1e-4)
    assert (rates[41] > rates[40]) == rises
    assert rates[48:] == sorted(rates[48:], reverse=True) and rates[-1] < 0.001


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("name", "adagrad", r"optimizer\.name='adagrad' must be one of adamw, "),
        ("decay", "none", r"optimizer\.decay='none' must be one of matrices, all"),
        ("schedule", "linear", r"optimizer\.schedule='linear' must be one of constant, "),
    ],
)
def test_impossible_values(key, value, message):
    with pytest.raises(UserError, match=message):
        rules.check(RULES, {key: value}, "optimizer.")


def test_options_that_contradict_one_another():
    with pytest.raises(UserError, match="adam has no weight decay"):
        make_optimizer("adam", 0.1, example()[1], weight_decay=0.1)
    for name in SCHEDULES:
        with pytest.raises(UserError, match=r"optimizer\.warmup_epochs is 10 steps.* only 10"):
            make_schedule(OptimizerOptions(schedule=name), 10, 10)
