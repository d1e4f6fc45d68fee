"""Learning-rate schedules and optimizers by name: the two tables that new ones are added to."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from eanet.errors import UserError
from eanet.rules import Choice, NameIn, Number, Rule, Text
from eanet.training import multipliers

Build = Callable[["OptimizerOptions", optax.Schedule, Any], optax.GradientTransformation]


def _constant(peak: float, total_steps: int, warmup_steps: int) -> optax.Schedule:
    del total_steps
    return _after_warmup(optax.constant_schedule(peak), peak, warmup_steps)


def _cosine(peak: float, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """Falls to zero at the end."""
    fall = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup_steps))
    return _after_warmup(fall, peak, warmup_steps)


def _one_cycle(peak: float, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """Rises over the warm-up, or 30 % of the steps without (Smith and Topin, arXiv 1708.07120)."""
    rise = warmup_steps / total_steps if warmup_steps else 0.3
    return optax.cosine_onecycle_schedule(total_steps, peak, pct_start=rise)


def _after_warmup(schedule: optax.Schedule, peak: float, warmup_steps: int) -> optax.Schedule:
    if not warmup_steps:
        return schedule
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([rise, schedule], [warmup_steps])


# By `optimizer.schedule`: of peak, total steps and steps of warm-up.
SCHEDULES: dict[str, Callable[[float, int, int], optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
}


def _decay(options: "OptimizerOptions", kernels: Any) -> dict[str, Any]:
    return {"weight_decay": options.weight_decay, "mask": options.decay_mask(kernels)}


def _adamw(options: "OptimizerOptions", learning_rate: optax.Schedule, kernels: Any):
    moments = options.b1, options.b2, options.epsilon
    return optax.adamw(learning_rate, *moments, **_decay(options, kernels))


def _adam(options: "OptimizerOptions", learning_rate: optax.Schedule, kernels: Any):
    del kernels
    if options.weight_decay:
        raise UserError("optimizer.name=adam has no weight decay: use adamw, or weight_decay=0")
    return optax.adam(learning_rate, options.b1, options.b2, options.epsilon)


def _sgd(options: "OptimizerOptions", learning_rate: optax.Schedule, kernels: Any):
    return optax.chain(
        optax.add_decayed_weights(**_decay(options, kernels)),
        optax.sgd(learning_rate, momentum=options.momentum, nesterov=True),
    )


def _lion(options: "OptimizerOptions", learning_rate: optax.Schedule, kernels: Any):
    return optax.lion(learning_rate, options.b1, options.b2, **_decay(options, kernels))


def _muon(options: "OptimizerOptions", learning_rate: optax.Schedule, kernels: Any):
    """Orthogonalises the kernels as matrices and leaves the rest to Adam."""

    def axes(kernel: str, param: jax.Array) -> MuonDimensionNumbers | None:
        if not kernel:
            return None
        sides = " " * (param.ndim - len(kernel)) + kernel  # a stack of blocks stands before
        inputs, outputs = (
            tuple(axis for axis, side in enumerate(sides) if side == own) for own in "io"
        )
        return MuonDimensionNumbers(inputs, outputs)

    return muon(
        learning_rate,
        beta=options.momentum,
        eps=options.epsilon,
        weight_decay=options.weight_decay,
        weight_decay_mask=options.decay_mask(kernels),
        adam_weight_decay=options.weight_decay if options.decay == "all" else 0.0,
        # Optax also asks with a node without leaves in the place of every other parameter.
        muon_weight_dimension_numbers=lambda params: jax.tree.map(axes, kernels, params),
    )


# By `optimizer.name`: of the options, the learning rate by step, and `SplitModel.kernels`.
OPTIMIZERS: dict[str, Build] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "lion": _lion,
    "muon": _muon,
}


def _option(default: Any, rule: Rule) -> Any:
    return field(default=default, metadata={"rule": rule})


_MOMENT_DECAY = Number(0, 1, below=True)


@dataclass(frozen=True)
class OptimizerOptions:
    """The section `optimizer` of a config, each key with its rule.

    `configs/eanet_cifar100.py` says what they mean and which optimizer takes which.
    """

    name: str = _option("adamw", NameIn(OPTIMIZERS))
    learning_rate: float = _option(1e-3, Number(0, 1e30))
    schedule: str = _option("constant", NameIn(SCHEDULES))
    warmup_epochs: float = _option(0.0, Number(0, 1_000_000))
    weight_decay: float = _option(0.0, Number(0, 1e30))
    decay: str = _option("matrices", Choice("matrices", "all"))
    clip_norm: float = _option(0.0, Number(0, 1e30))
    b1: float = _option(0.9, _MOMENT_DECAY)
    b2: float = _option(0.999, _MOMENT_DECAY)
    epsilon: float = _option(1e-8, Number(1e-30, 1))  # zero would divide zero by zero
    momentum: float = _option(0.9, _MOMENT_DECAY)
    ema_decay: float = _option(0.0, _MOMENT_DECAY)
    freeze: str = _option("", Text())
    head_multiplier: float = _option(1.0, Number(0, 1e6))
    layer_decay: float = _option(1.0, Number(0, 1, above=True))

    def decay_mask(self, kernels: Any) -> Any:
        """A tree like the parameters, true where they decay; None where all do."""
        return jax.tree.map(bool, kernels) if self.decay == "matrices" else None


RULES: dict[str, Rule] = {key.name: key.metadata["rule"] for key in fields(OptimizerOptions)}


def make_schedule(
    options: OptimizerOptions, total_steps: int, warmup_steps: int = 0
) -> optax.Schedule:
    """The learning rate as a function of the step, from 0.

    Raises:
      UserError: the warm-up is as long as the whole training.
    """
    if warmup_steps >= total_steps:
        raise UserError(
            f"optimizer.warmup_epochs is {warmup_steps} steps, but the whole training has only "
            f"{total_steps}: make it shorter or num_epochs longer"
        )
    return SCHEDULES[options.schedule](options.learning_rate, total_steps, warmup_steps)


def make_optimizer(
    options: OptimizerOptions, learning_rate: optax.Schedule, kernels: Any, *, depth: int = 0
) -> optax.GradientTransformation:
    """The chain from gradients to updates; the schedule does not change the form of its state.

    `kernels` is that of `eanet.models.functional.SplitModel`, `depth` the number of its blocks,
    which only `freeze` needs.

    Raises:
      UserError: the options contradict one another.
    """
    chain = [OPTIMIZERS[options.name](options, learning_rate, kernels)]
    if options.clip_norm:
        chain.insert(0, optax.clip_by_global_norm(options.clip_norm))
    if options.freeze:
        frozen = multipliers.frozen(options.freeze, kernels, depth)
        chain = [multipliers.zero(frozen), *chain, multipliers.zero(frozen)]
    if (options.head_multiplier, options.layer_decay) != (1.0, 1.0):
        chain.append(multipliers.by_layer(options.head_multiplier, options.layer_decay))
    return chain[0] if len(chain) == 1 else optax.chain(*chain)
