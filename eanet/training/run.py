"""What a config stands for: data, model, optimizer, devices, and how long to train.

The only place that knows the whole config.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from eanet import devices
from eanet.augment import pipeline
from eanet.data.load import Dataset, load_dataset
from eanet.models import costs
from eanet.models.eanet import EANet
from eanet.models.functional import SplitModel, split_model
from eanet.prng import lowest_word
from eanet.training import config_schema
from eanet.training import loss as loss_lib
from eanet.training import step as step_lib
from eanet.training.batches import Prepare, epoch_order, make_prepare, normalizer
from eanet.training.evaluation import make_evaluate
from eanet.training.examine import make_examine
from eanet.training.loss import Loss, make_loss
from eanet.training.optimizer import make_optimizer, make_schedule
from eanet.training.plan import Plan
from eanet.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config stands for: data, model, optimizer, devices and how long to train."""

    config: ConfigDict
    dataset: Dataset
    model: SplitModel
    loss: Loss
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    plan: Plan
    mesh: jax.sharding.Mesh
    prepare: Prepare
    evaluate: Callable[..., dict[str, float] | None]
    microbatch: int  # images that a device takes through the model at once, in training

    @property
    def seed(self) -> np.uint32:
        """As an argument of compiled functions."""
        return lowest_word(self.config.seed)

    def order(self, step: int) -> jax.Array:
        """Indices of the examples of the epoch in which the batch after `step` begins."""
        plan = self.plan
        return epoch_order(
            self.config.seed, plan.epoch_of(step), plan.num_examples, plan.batch_size
        )

    def placed(self, step: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The training images and labels and the order of their epoch, on the devices."""
        examples = self.dataset.train
        return devices.replicate((examples.images, examples.labels, self.order(step)), self.mesh)

    def batch_indices(self, step: int) -> np.ndarray:
        """Indices of the examples of the batch after `step`."""
        start = self.plan.offset_in_epoch(step)
        return np.asarray(self.order(step)[start : start + self.plan.batch_size])

    def initial_state(self) -> TrainState:
        """The state before the first step, on the devices."""
        init = jax.jit(self._initial_state, out_shardings=devices.replicated(self.mesh))
        return init(self.seed)

    def abstract_state(self) -> TrainState:
        """Shapes, types and places of a state's arrays, without values."""
        sharding = devices.replicated(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(self._initial_state, self.seed),
        )

    def make_train_steps(self) -> Any:
        """The jitted function that runs many training steps in one dispatch."""
        config = self.config
        return step_lib.make_train_steps(
            self.model.apply,
            self.loss,
            self.optimizer,
            self.mesh,
            self.prepare,
            batch_size=config.batch_size,
            microbatch=self.microbatch,
            ema_decay=config.optimizer.ema_decay,
            nonfinite_limit=config.nonfinite_limit if config.on_nonfinite == "skip" else 0,
        )

    def lower_train_steps(self, like: TrainState) -> Any:
        """`make_train_steps` for a state `like` this and what `placed` gives, to be compiled."""
        sharding = devices.replicated(self.mesh)
        images, labels = self.dataset.train.images, self.dataset.train.labels
        placed = [
            jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype), sharding=sharding)
            for shape, dtype in (
                (images.shape, images.dtype),
                (labels.shape, labels.dtype),
                ((len(images) + self.plan.batch_size,), np.int32),
            )
        ]
        return self.make_train_steps().lower(like, *placed, self.seed, 0, 0, 1)

    def examine(self, state: TrainState, step: int) -> dict[str, dict[str, float]]:
        """Activations and gradients by layer in the step after `step`, see `examine`."""
        examine_step = make_examine(
            self.model, self.loss, self.prepare, batch_size=self.config.batch_size
        )
        index = self.batch_indices(step)
        train_split = self.dataset.train
        return examine_step(state, self.seed, train_split.images[index], train_split.labels[index])

    def _initial_state(self, seed: Any) -> TrainState:
        ema = self.config.optimizer.ema_decay > 0
        return step_lib.init_state(self.model.init(seed), self.optimizer, ema=ema)


def set_up(config: ConfigDict, log: Callable[[str], None], dataset: Dataset | None = None) -> Run:
    """Loads the data and builds everything that the config describes.

    Args:
      config: as `configs/eanet_cifar100.py` describes it.
      log: called with a line of text where loading takes long or needs to be known.
      dataset: takes the place of the one that the config names.

    Raises:
      UserError: for what the user can mend in config or data.
    """
    config_schema.check(config)
    dataset = dataset or load_dataset(seed=config.seed, log=log, **config.dataset)
    pipeline.check(dataset.image_shape, **config.augment)
    plan = Plan(
        num_examples=len(dataset.train),
        batch_size=config.batch_size,
        num_epochs=config.num_epochs,
        eval_every_epochs=config.eval_every_epochs,
        checkpoint_every_epochs=config.checkpoint_every_epochs,
        checkpoint_every_steps=config.checkpoint_every_steps,
    )
    mesh = devices.make_mesh(config.batch_size)
    model = split_model(
        lambda rngs: EANet(dataset.num_classes, dataset.image_shape, rngs=rngs, **config.model)
    )
    microbatch = devices.microbatch(
        mesh,
        config.batch_size,
        config.microbatch_size,
        costs.images_in_cache(model.abstract, training=True),
    )
    devices.check_memory(costs.least_bytes(model.abstract, microbatch), mesh)
    options = config.optimizer.to_dict()
    del options["ema_decay"]
    learning_rate = make_schedule(
        options.pop("schedule"),
        learning_rate=options.pop("learning_rate"),
        total_steps=plan.total_steps,
        warmup_steps=plan.steps(options.pop("warmup_epochs")),
    )
    loss = make_loss(**{key: config[key] for key in loss_lib.RULES})
    normalize = normalizer(dataset.mean, dataset.std)
    return Run(
        config=config,
        dataset=dataset,
        model=model,
        loss=loss,
        optimizer=make_optimizer(
            options.pop("name"), learning_rate, matrices=model.kernels, **options
        ),
        learning_rate=learning_rate,
        plan=plan,
        mesh=mesh,
        prepare=make_prepare(
            num_classes=dataset.num_classes,
            normalize=normalize,
            augmentation=config.augment.to_dict(),
            random_bits=config.random_bits,
        ),
        evaluate=make_evaluate(
            model.apply,
            loss,
            mesh,
            normalize=normalize,
            images_in_cache=costs.images_in_cache(model.abstract, training=False),
        ),
        microbatch=microbatch,
    )
