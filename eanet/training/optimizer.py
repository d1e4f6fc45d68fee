"""Schedules, which parameters decay, and the optax chain."""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from eanet import rules
from eanet.errors import UserError
from eanet.rules import Choice, Number

OPTIMIZERS = ("adamw", "adam", "sgd", "lion", "muon")
SCHEDULES = ("constant", "cosine", "one_cycle")
DECAYS = ("matrices", "all")

_DECAY_OF_MOMENT = Number(0, 1, below=True)
RULES: dict[str, rules.Rule] = {
    "name": Choice(*OPTIMIZERS),
    "learning_rate": Number(0, 1e30),
    "schedule": Choice(*SCHEDULES),
    "warmup_epochs": Number(0, 1_000_000),
    "weight_decay": Number(0, 1e30),
    "decay": Choice(*DECAYS),
    "clip_norm": Number(0, 1e30),
    "b1": _DECAY_OF_MOMENT,
    "b2": _DECAY_OF_MOMENT,
    "epsilon": Number(1e-30, 1),  # zero would divide zero by zero
    "momentum": _DECAY_OF_MOMENT,
    "ema_decay": _DECAY_OF_MOMENT,
}


def make_schedule(
    name: str, *, learning_rate: float, total_steps: int, warmup_steps: int = 0
) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
      name: "constant"; "cosine", which falls to zero at the end; or "one_cycle" (Smith and Topin,
        arXiv 1708.07120), which rises to the peak over the warm-up, or 30 % of the steps without.
      learning_rate: the peak.
      total_steps: of the whole training.
      warmup_steps: of a linear rise from zero.
    """
    rules.check(RULES, {"schedule": name, "learning_rate": learning_rate}, "optimizer.")
    if warmup_steps >= total_steps > 0:
        raise UserError(
            f"optimizer.warmup_epochs is {warmup_steps} steps, but the whole training has only "
            f"{total_steps}: make it shorter or num_epochs longer"
        )
    if name == "one_cycle":
        rise = warmup_steps / total_steps if warmup_steps else 0.3
        return optax.cosine_onecycle_schedule(total_steps, learning_rate, pct_start=rise)
    if name == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, max(1, total_steps - warmup_steps))
    else:
        after = optax.constant_schedule(learning_rate)
    warmup = optax.linear_schedule(0.0, learning_rate, max(1, warmup_steps))
    return optax.join_schedules([warmup, after], [warmup_steps]) if warmup_steps else after


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    matrices: Any,
    weight_decay: float = 0.0,
    decay: str = "matrices",
    clip_norm: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    momentum: float = 0.9,
) -> optax.GradientTransformation:
    """The chain from gradients to updates.

    Args:
      name: one of `OPTIMIZERS`.
      schedule: the learning rate of a step.
      matrices: a tree like the parameters, see `eanet.models.functional.SplitModel.kernels`.
      weight_decay: decoupled: `learning_rate · weight_decay · w` is subtracted in every step.
      decay: "matrices" decays kernels only, "all" every parameter.
      clip_norm: gradients are scaled down to this global norm; 0 does not clip.
      b1: decay of the first moment (adamw, adam, lion).
      b2: decay of the second moment (adamw, adam, lion).
      epsilon: added to the root of the second moment (adamw, adam, muon).
      momentum: of sgd and muon.
    """
    options = {"name": name, "weight_decay": weight_decay, "decay": decay, "clip_norm": clip_norm}
    options |= {"b1": b1, "b2": b2, "epsilon": epsilon, "momentum": momentum}
    rules.check(RULES, options, "optimizer.")
    if name == "adam" and weight_decay:
        raise UserError("optimizer.name=adam has no weight decay: use adamw, or weight_decay=0")
    mask = jax.tree.map(bool, matrices) if decay == "matrices" else None
    if name == "adamw":
        update = optax.adamw(schedule, b1, b2, epsilon, weight_decay=weight_decay, mask=mask)
    elif name == "adam":
        update = optax.adam(schedule, b1, b2, epsilon)
    elif name == "lion":
        update = optax.lion(schedule, b1, b2, weight_decay=weight_decay, mask=mask)
    elif name == "sgd":
        update = optax.chain(
            optax.add_decayed_weights(weight_decay, mask),
            optax.sgd(schedule, momentum=momentum, nesterov=True),
        )
    else:
        update = muon(
            schedule,
            beta=momentum,
            eps=epsilon,
            weight_decay=weight_decay,
            weight_decay_mask=mask,
            adam_weight_decay=weight_decay if decay == "all" else 0.0,
            muon_weight_dimension_numbers=lambda params: _muon_axes(params, matrices),
        )
    return optax.chain(optax.clip_by_global_norm(clip_norm), update) if clip_norm else update


def _muon_axes(params: Any, matrices: Any) -> Any:
    """Muon orthogonalises the kernels as matrices and leaves the rest to Adam."""

    def axes(kernel: str, param: jax.Array) -> MuonDimensionNumbers | None:
        if not kernel:
            return None
        own = range(param.ndim - len(kernel), param.ndim)  # a stack of blocks stands before
        inputs, outputs = (
            tuple(axis for axis, side in zip(own, kernel, strict=True) if side == which)
            for which in "io"
        )
        return MuonDimensionNumbers(inputs, outputs)

    # Optax also asks with a node without leaves in the place of every other parameter.
    return jax.tree.map(axes, matrices, params)
