"""What a config stands for: data, model, optimizer, devices, and how long to train.

The only place that knows the whole config.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from eanet import devices, precision
from eanet.augment import pipeline
from eanet.cluster.members import ALONE, Members
from eanet.data.base import Log, Split
from eanet.data.load import Dataset, load_dataset
from eanet.data.stored import StoredImages
from eanet.errors import UserError
from eanet.models import costs
from eanet.models.eanet import EANet
from eanet.models.functional import SplitModel, split_model
from eanet.prng import lowest_word
from eanet.training import config_schema
from eanet.training import loss as loss_lib
from eanet.training import plan as plan_lib
from eanet.training import step as step_lib
from eanet.training.batches import Prepare, epoch_order, make_prepare, normalizer
from eanet.training.diagnostics import Layers, make_examine
from eanet.training.evaluation import make_evaluate
from eanet.training.feed import Feed, Resident, Streamed
from eanet.training.loss import Loss, make_loss
from eanet.training.optimizer import OptimizerOptions, make_optimizer, make_schedule
from eanet.training.plan import Plan
from eanet.training.step import TrainState
from eanet.workdir.model_record import ModelRecord


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
    streams: bool = False  # whether the training examples come to the devices batch by batch

    @property
    def seed(self) -> np.uint32:
        """As an argument of compiled functions."""
        return lowest_word(self.config.seed)

    @functools.cached_property
    def feed(self) -> Feed:
        """How the training examples come to the devices."""
        examples = self.dataset.train, self.plan, self.mesh, self._epoch_order
        return Streamed(*examples, self.dataset.crops) if self.streams else Resident(*examples)

    def order(self, step: int) -> jax.Array:
        """Indices of the examples of the epoch in which the batch after `step` begins."""
        return self._epoch_order(self.plan.epoch_of(step))

    def _epoch_order(self, epoch: int) -> jax.Array:
        return epoch_order(self.config.seed, epoch, self.plan.num_examples, self.plan.batch_size)

    def placed(self, step: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The training images and labels and the order of their epoch, on the devices."""
        examples = self.dataset.train
        return devices.replicate((examples.images, examples.labels, self.order(step)), self.mesh)

    def batch_indices(self, step: int) -> np.ndarray:
        """Indices of the examples of the batch after `step`."""
        start = self.plan.offset_in_epoch(step)
        return np.asarray(self.order(step)[start : start + self.plan.batch_size])

    def batch_images(self, step: int) -> np.ndarray:
        """`uint8[B, H, W, C]`, what the step after `step` sees before augmentation."""
        index, crops = self.batch_indices(step), self.dataset.crops
        if crops is None:
            return self.dataset.train.images[index]
        return crops[index + self.plan.epochs_of(step) * self.plan.num_examples]

    def initial_state(self) -> TrainState:
        """The state before the first step, on the devices."""
        init = jax.jit(self._initial_state, out_shardings=devices.replicated(self.mesh))
        return init(self.seed)

    def state_of(self, params: Any) -> TrainState:
        """The state before the first step from these parameters, on the devices."""
        init = jax.jit(self._state_of, out_shardings=devices.replicated(self.mesh))
        return init(params)

    def abstract_state(self) -> TrainState:
        """Shapes, types and places of a state's arrays, without values."""
        return self._abstract(jax.eval_shape(self._initial_state, self.seed))

    def make_train_steps(self) -> Any:
        """See `eanet.training.step.make_train_steps`."""
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
            matmul_precision=config.matmul_precision,
        )

    def lower_train_steps(self, like: TrainState) -> Any:
        """`make_train_steps` for a state `like` this and what `feed` gives, to be compiled."""
        return self.make_train_steps().lower(like, *self.feed.shapes(), self.seed, 0, 0, 1)

    def examine(self, state: TrainState, step: int) -> Layers:
        """Activations and gradients by layer in the step after `step`, see `make_examine`."""
        labels = self.dataset.train.labels[self.batch_indices(step)]
        return self._examine(state, self.seed, self.batch_images(step), labels)

    @functools.cached_property
    def _examine(self) -> Callable[..., Layers]:
        examine = make_examine(self.model, self.loss, self.prepare, self.config.batch_size)
        return precision.at(self.config.matmul_precision, examine)

    def _abstract(self, tree: Any) -> Any:
        def one(leaf: Any) -> jax.ShapeDtypeStruct:
            dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
            return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=devices.replicated(self.mesh))

        return jax.tree.map(one, tree)

    def _initial_state(self, seed: Any) -> TrainState:
        return self._state_of(self.model.init(seed))

    def _state_of(self, params: Any) -> TrainState:
        ema = self.config.optimizer.ema_decay > 0
        return step_lib.init_state(params, self.optimizer, ema=ema)


def build_model(
    config: ConfigDict, num_classes: int, image_shape: tuple[int, int, int]
) -> SplitModel:
    """The model that the config describes; nothing is computed."""
    return split_model(lambda rngs: EANet(num_classes, image_shape, rngs=rngs, **config.model))


def build_loss(config: ConfigDict, class_weights: np.ndarray | None = None) -> Loss:
    """The loss that the config describes; evaluation has no class weights."""
    return make_loss(class_weights=class_weights, **{key: config[key] for key in loss_lib.RULES})


def build_evaluate(
    config: ConfigDict,
    model: SplitModel,
    mean: np.ndarray,
    std: np.ndarray,
    members: Members = ALONE,
) -> Callable[..., dict[str, float] | None]:
    """`evaluate(params, examples)` of such a model for images of these statistics.

    As many images go through the model at once as fit each of `members`, which all call this.
    """
    mesh = devices.make_mesh(config.batch_size)
    return make_evaluate(
        precision.at(config.matmul_precision, model.apply),
        build_loss(config),
        mesh,
        normalize=normalizer(mean, std),
        images_at_once=members.least(costs.images_at_once(model.abstract, mesh, training=False)),
    )


def build_plan(config: ConfigDict, num_examples: int) -> Plan:
    """The plan of training on so many examples."""
    return Plan(num_examples, **{key: config[key] for key in plan_lib.RULES})


def set_up(
    config: ConfigDict,
    log: Log,
    dataset: Dataset | None = None,
    known: ModelRecord | None = None,
    members: Members = ALONE,
) -> Run:
    """Loads the data and builds everything that the config describes.

    Args:
      config: as `configs/eanet_cifar100.py` describes it.
      log: of what loading has to say.
      dataset: takes the place of the one that the config names.
      known: what is recorded of the run, where it has begun before.
      members: the processes that train together; all call this.

    Raises:
      UserError: for what the user can mend in config or data.
    """
    config_schema.check(config)
    if config.dataset.decode_crop and config.augment.random_resized_crop:
        raise UserError(
            "dataset.decode_crop and augment.random_resized_crop would cut each image twice; set "
            "one of them to 0"
        )
    dataset = dataset or _load(config, log, known)
    if known:
        known.refuse_other(dataset)
        mean, std = known.statistics
        dataset = dataclasses.replace(dataset, mean=mean, std=std)
    pipeline.check(dataset.image_shape, **config.augment)
    plan = build_plan(config, len(dataset.train))
    mesh = devices.make_mesh(config.batch_size)
    model = build_model(config, dataset.num_classes, dataset.image_shape)
    streams, microbatch = _fitted(config, model, dataset.train, mesh)
    # All must compile the same program. Their shares of a batch are equal: the least divides each.
    microbatch = members.least(microbatch)
    options = OptimizerOptions(**config.optimizer)
    learning_rate = make_schedule(options, plan.total_steps, plan.steps(options.warmup_epochs))
    run = Run(
        config=config,
        dataset=dataset,
        model=model,
        loss=build_loss(config, dataset.class_weights),
        optimizer=make_optimizer(options, learning_rate, model.kernels, depth=config.model.depth),
        learning_rate=learning_rate,
        plan=plan,
        mesh=mesh,
        prepare=make_prepare(
            num_classes=dataset.num_classes,
            normalize=normalizer(dataset.mean, dataset.std),
            augmentation=config.augment.to_dict(),
            random_bits=config.random_bits,
            mild_from=plan.mild_from,
        ),
        evaluate=build_evaluate(config, model, dataset.mean, dataset.std, members),
        microbatch=microbatch,
        streams=streams,
    )
    run.feed.shapes()  # refuses batches that memory would not hold before a workdir is made
    return run


def _load(config: ConfigDict, log: Log, known: ModelRecord | None) -> Dataset:
    """The data that the config names, with the classes and the place that are recorded of a run."""
    if size := config.dataset.image_size:
        build_model(config, 2, (*size, 3))  # refuses a patch size before anything is decoded
    return load_dataset(
        seed=config.seed,
        place=known.data.place if known and known.data else None,
        class_names=known.class_names if known else (),
        holds_out=bool(known and known.data and known.data.holds_out),
        log=log,
        **config.dataset,
    )


def _fitted(
    config: ConfigDict, model: SplitModel, train: Split, mesh: jax.sharding.Mesh
) -> tuple[bool, int]:
    """Whether images are streamed, and how many a pass takes, by what the devices can hold.

    Raises:
      UserError: even one image a pass is too much.
    """
    images = train.images

    def microbatch_beside(resident: int) -> int:
        held = resident + costs.batch_bytes(config.batch_size // mesh.size, images.shape[1:])
        at_once = costs.images_at_once(model.abstract, mesh, training=True, held=held)
        return devices.microbatch(mesh, config.batch_size, config.microbatch_size, at_once)

    streams = config.dataset.streaming
    if streams is None:
        needed = costs.least_bytes(model.abstract, microbatch_beside(images.nbytes))
        streams = isinstance(images, StoredImages) or not devices.fits(needed, images.nbytes, mesh)
    resident = 0 if streams else images.nbytes
    microbatch = microbatch_beside(resident)
    devices.check_memory(costs.least_bytes(model.abstract, microbatch), resident, mesh)
    return streams, microbatch
