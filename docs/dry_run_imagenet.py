"""Takes the ImageNet configs through every command on generated pictures, on this machine.

python -m docs.dry_run_imagenet imagenet_eanet 240    # config, training images; prints a table

What is shown is that nothing fails at these sizes, and what it costs here; nothing is learnt.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
CLASSES, BATCH, STEPS = 8, 4, 3


def write_pictures(root: Path, count: int) -> None:
    """JPEG of 500 × 375 and, upright, 375 × 500: `train/CLASS/*`, and a sixth as many in `val`."""
    rng = np.random.default_rng(0)
    for part, number in (("train", count), ("val", count // 6)):
        for index in range(number):
            noise = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            photo = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
            path = root / part / f"n{index % CLASSES:08}" / f"{index}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            (photo if index % 2 else photo.transpose(Image.Transpose.ROTATE_90)).save(path)


def commands(config: str, count: int, pictures: Path, run: Path) -> Iterator[tuple[str, list[str]]]:
    """What is run, and how."""
    main = [str(ROOT / "main.py")]
    kept = count - round(0.02 * count)  # of the config's val_fraction
    yield "train, streamed: 3 steps, validation, test", [
        *main, f"--config={ROOT}/configs/{config}.py", f"--workdir={run}",
        f"--config.dataset.name=folder:{pictures}", "--config.dataset.streaming=true",
        f"--config.batch_size={BATCH}", f"--config.num_epochs={STEPS * BATCH / kept}",
        "--config.optimizer.warmup_epochs=0", "--config.checkpoint_every_steps=1",
    ]  # fmt: skip
    longer = f"--extend_to={2 * STEPS * BATCH / kept}"
    yield "resume from step 3, to step 6", [*main, f"--workdir={run}", longer]
    yield "eval of validation", [*main, "--mode=eval", "--split=val", f"--workdir={run}"]
    asked = f"--images={pictures}/val/n00000000"
    yield "predict", [*main, "--mode=predict", f"--workdir={run}", asked]
    for form in ("safetensors", "stablehlo", "onnx"):
        yield f"export, {form}", ["-m", "eanet", "export", str(run), f"--format={form}"]


def main(config: str, count: int) -> None:
    """Runs all; raises `CalledProcessError` where one fails."""
    print(
        f"| {config}, {count} training images | minutes | processor minutes |\n| --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as directory:
        pictures, run = Path(directory) / "pictures", Path(directory) / "run"
        write_pictures(pictures, count)
        for what, command in commands(config, count, pictures, run):
            start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *command], check=True, stdout=sys.stderr, cwd=ROOT)
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
            minutes = (time.monotonic() - start) / 60
            print(f"| {what} | {minutes:.1f} | {processor / 60:.1f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
