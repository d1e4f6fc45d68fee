"""Bounds on what a training step of the Keras example costs, in counts that no machine changes.

Recorded with jax 0.10.1, 2 CPU devices, batch 128, 8 images a pass; 1 % above what was counted. XLA
counts the body of a loop once: that is one pass of one device. Where a change lowers a count,
lower its bound; where one has to raise it, its commit says why.
"""

import pytest

# Of the default config's step as it is handed to XLA, before it fuses anything.
LOWERED = {"flops": 4.593e9, "bytes accessed": 6.777e9, "transcendentals": 6.754e6}
# Of the step without augmentation, after it: what a pass reads and writes, and holds at once.
COMPILED = {"flops": 4.564e9, "bytes accessed": 9.416e8, "temporary bytes": 7.956e7}
# Random words a step, forward and backward: one for each value that dropout may drop, and again.
WORDS = 2.372e8


def assert_within(counted: dict[str, float], bounds: dict[str, float]) -> None:
    """Fails where a count exceeds its bound, and shows all of them."""
    table = "\n".join(f"{name}: {counted[name]:.4g}, bound {bounds[name]:.4g}" for name in bounds)
    if any(counted[name] > bound for name, bound in bounds.items()):
        pytest.fail(f"a training step has become more costly\n{table}")
