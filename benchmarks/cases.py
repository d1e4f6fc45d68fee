"""Who competes in `benchmarks.throughput`, and in what."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from eanet import config as config_lib

# XLA:CPU takes its temporary arrays from malloc at every call. By default glibc maps large ones
# anew and gives them back, so that their pages fault again; with this it keeps them.
KEEP_PAGES = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=34359738368"
)

IMAGE_SHAPE, NUM_CLASSES = (32, 32, 3), 100  # those of CIFAR-100


@dataclass(frozen=True)
class Contestant:
    """A program, and what it is told on top of the case.

    Attributes:
      module: see `benchmarks.contestant.serve`.
      needs: packages; ours needs none beyond this project's own.
      task: what it is told.
      changes: values of the config, by full key.
      environment: variables of its process.
    """

    module: str
    needs: tuple[str, ...] = ()
    task: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def _keras(backend: str, jit_compile: bool | str = "auto") -> Contestant:
    return Contestant(
        "benchmarks.peer_keras",
        ("keras", backend),
        {"jit_compile": jit_compile},
        environment={
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_ENABLE_ONEDNN_OPTS": "1",  # faster, and off by default on some processors
        },
    )


def _torch(compiled: bool) -> Contestant:
    return Contestant(
        "benchmarks.peer_torch",
        ("torch",),
        {"compiled": compiled},
        # One compiling process, so that idle ones do not count as memory of training.
        environment={"TORCHINDUCTOR_COMPILE_THREADS": "1"},
    )


def _ours(key: str, values: Iterable[Any]) -> dict[str, Contestant]:
    """Ours once for each value of a config key."""
    short = key.rpartition(".")[2]
    return {
        f"{short} {value}": Contestant("benchmarks.ours", changes={key: value}) for value in values
    }


OURS = {"eanet": Contestant("benchmarks.ours")}
PEERS = {
    "keras-tensorflow": _keras("tensorflow"),
    "keras-tensorflow-xla": _keras("tensorflow", jit_compile=True),  # "auto" takes plain graphs
    "torch": _torch(compiled=False),
    "torch-compile": _torch(compiled=True),
    "keras-jax": _keras("jax"),
    "keras-torch": _keras("torch"),
}

# What the peers are written for.
_PEERS_HAVE = {
    "model.dtype": "float32",
    "model.attention": "external",
    "model.norm": "double",
    "model.final_norm": False,
    "optimizer.name": "adamw",
    "optimizer.decay": "all",
}


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
      title: for people.
      changes: values of the config, by full key.
      augmented: with the augmentation of the config.
      evaluated: images of one evaluation; 0: it is training that is measured.
      contestants: who takes part; the first is compared with the others.
    """

    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    augmented: bool = False
    evaluated: int = 0
    contestants: Mapping[str, Contestant] = field(default_factory=lambda: OURS | PEERS)

    def task(self, config: ConfigDict, contestant: Contestant) -> dict[str, Any]:
        """What a contestant is told to prepare."""
        config = ConfigDict(config.to_dict())
        if not self.augmented:
            config.augment = {key: type(value)() for key, value in config.augment.items()}
        config.update_from_flattened_dict({**self.changes, **contestant.changes})
        return {
            "config": config.to_dict(),
            "augmented": self.augmented,
            "evaluated": self.evaluated,
            "image_shape": IMAGE_SHAPE,
            "num_classes": NUM_CLASSES,
            **contestant.task,
        }

    def lacks(self, config: ConfigDict, contestant: Contestant) -> str | None:
        """What of this case the contestant cannot do."""
        if not contestant.needs:
            return None
        if self.augmented and "keras" not in contestant.needs:
            return "no augmentation"
        values = dict(config_lib.flatten(config))
        other = [f"{key}={values[key]}" for key, has in _PEERS_HAVE.items() if values[key] != has]
        return f"no {', '.join(other)}" if other else None


CASES = {
    "train": Case("Training, dropout, no augmentation"),
    "train_no_dropout": Case("Training, no dropout", {"model.dropout_rate": 0.0}),
    "train_augmented": Case("Training, dropout and augmentation", augmented=True),
    "evaluate": Case("Evaluation", evaluated=1024),
    # The fused kernels of torch have no dropout on a CPU.
    "self_attention": Case(
        "Training with self-attention, no dropout",
        {"model.attention": "self", "model.num_heads": 4, "model.dropout_rate": 0.0},
        contestants=OURS | {name: PEERS[name] for name in ("torch", "torch-compile")},
    ),
    "batch_sizes": Case(
        "Training, by batch size", contestants=_ours("batch_size", (128, 16, 32, 64, 256, 512))
    ),
    "memory_sizes": Case(
        "Training, by memory units", contestants=_ours("model.memory_size", (16, 4, 64, 256))
    ),
    # What eanet.platforms decides by; S = 64 is where the fast form loops over heads.
    "implementations": Case(
        "Training, by form of attention",
        contestants=_ours("model.implementation", ("fast", "plain")),
    ),
    "implementations_64": Case(
        "Training, by form of attention, S = 64",
        {"model.memory_size": 64},
        contestants=_ours("model.implementation", ("fast", "plain")),
    ),
    "microbatches": Case(
        "Training, by images at once, of all devices; 0 is what eanet.platforms says",
        contestants=_ours("microbatch_size", (0, 16, 64, 128)),
    ),
    "dtypes": Case("Training, by type", contestants=_ours("model.dtype", ("float32", "bfloat16"))),
    "depths": Case("Training, by number of blocks", contestants=_ours("model.depth", (8, 32))),
    "host": Case(
        "Training, by what eanet.host sets",
        contestants=OURS
        | {
            "other allocator": Contestant(
                "benchmarks.ours", environment={"GLIBC_TUNABLES": KEEP_PAGES}
            ),
            "one device": Contestant("benchmarks.ours", environment={"JAX_NUM_CPU_DEVICES": "1"}),
        },
    ),
}
