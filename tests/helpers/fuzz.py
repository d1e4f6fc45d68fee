"""Fuzzing: whatever is given, it works or is refused in one clear line.

`python -m tests.helpers.fuzz [--cases=400] [--seed=0] [--out=fuzz.json]` runs the tests of
`tests/test_fuzz_*.py` with many cases each and records, by kind of input, how many there were and
how many were accepted and refused. Within the test suite a few cases of each kind are tried.
"""

import argparse
import os
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_CASES = int(os.environ.get("EANET_FUZZ_CASES", "0"))
_tally: defaultdict[str, Counter[str]] = defaultdict(Counter)


def cases(few: int, share: float = 1.0) -> settings:
    """Settings of a test: `few` cases in the suite, a share of the recorded run's in that."""
    return settings(
        max_examples=max(1, round(_CASES * share)) if _CASES else few,
        deadline=None,
        database=None,
        derandomize=not _CASES,
        suppress_health_check=list(HealthCheck),
    )


def tried(kind: str, action: Callable[[], Any]) -> Any:
    """What `action` returns, or None where it refuses the input; any other end is a failure."""
    from eanet.errors import UserError

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)  # as Python does outside of tests
        try:
            result = action()
        except UserError as refusal:
            message = str(refusal)
            assert message.isprintable() and 10 < len(message) < 1100, message
            _tally[kind]["refused"] += 1
            result = None
        else:
            _tally[kind]["accepted"] += 1
    assert not said, [str(warning.message) for warning in said]
    return result


def mutated(text: bytes) -> st.SearchStrategy[bytes]:
    """The text with a part cut out, doubled or replaced."""
    places = st.integers(0, len(text))
    return st.tuples(places, places, st.binary(max_size=6)).map(
        lambda x: text[: x[0]] + x[2] + text[x[1] :]
    )


def _record(seed: int) -> dict[str, Any]:
    from eanet.environment import environment

    kinds = {
        kind: {"cases": sum(counts.values()), **{x: counts[x] for x in ("accepted", "refused")}}
        for kind, counts in sorted(_tally.items())
    }
    environment = environment()
    for package in ("hypothesis", "numpy", "pillow", "ml_collections"):
        environment["versions"][package] = metadata.version(package)
    total = sum(counts["cases"] for counts in kinds.values())
    return {"total": total, "kinds": kinds, "seed": seed, **environment}


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=400, help="of the quick kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz.json"))
    options = parser.parse_args()
    os.environ["EANET_FUZZ_CASES"] = str(options.cases)
    files = sorted(map(str, Path(__file__).parents[1].glob("fuzzing/test_fuzz_*.py")))
    failed = pytest.main(["-n0", "--durations=0", f"--hypothesis-seed={options.seed}", *files])
    if failed:
        return int(failed)
    from eanet.files import strict_json, write_atomically
    from tests.helpers import fuzz

    record = fuzz._record(options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, strict_json(record, indent=2))
    print(f"{record['total']:,} cases: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
