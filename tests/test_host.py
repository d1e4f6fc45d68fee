"""What the environment of the process may say, and what becomes of it."""

import logging
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

import eanet
from eanet import devices, host
from eanet.errors import UserError

ROOT = Path(__file__).parents[1]
LEAST_SECONDS = "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
OWN = ("JAX_COMPILATION_CACHE_DIR", "JAX_NUM_CPU_DEVICES", "JAX_PLATFORMS", "XLA_FLAGS")


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """An environment in which nothing is set, and which is put back."""
    for name in (
        *OWN,
        "TF_CPP_MIN_LOG_LEVEL",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    ):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(host, "_accelerator", lambda: "")
    yield monkeypatch
    logger = logging.getLogger("jax._src.compiler")
    logger.filters.clear()
    logger.setLevel(logging.NOTSET)


def started(arguments, **environment):
    """A process of main.py, and what it wrote to standard error."""
    done = subprocess.run(
        [sys.executable, "main.py", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


def test_every_core_becomes_a_device(clean):
    host.set_up()
    assert os.environ["JAX_NUM_CPU_DEVICES"] == str(min(8, len(os.sched_getaffinity(0))))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_NUM_CPU_DEVICES", "3"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=8"),
        ("XLA_FLAGS", "--xla_cpu_x=1 --xla_force_host_platform_device_count=4"),
    ],
)
def test_what_the_user_says_of_devices_stays(clean, name, value):
    clean.setenv(name, value)
    host.set_up()
    assert os.environ[name] == value
    assert os.environ.get("JAX_NUM_CPU_DEVICES") == (value if name.startswith("JAX") else None)


def test_jax_reads_every_setting_that_is_made_for_it(clean):
    before = dict(os.environ)
    host.set_up()
    made = {name for name in os.environ if os.environ[name] != before.get(name)}
    assert {name for name in made if name.startswith("JAX_")} == {
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_NUM_CPU_DEVICES",
        f"JAX_{LEAST_SECONDS}",
    }
    for name in made - {"TF_CPP_MIN_LOG_LEVEL"}:
        assert hasattr(jax.config, name.lower()), name


def test_nothing_is_said_of_devices_where_the_flag_says_no(clean):
    host.set_up(cpu_devices=False)
    assert "JAX_NUM_CPU_DEVICES" not in os.environ


FRACTION, OLDER = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


@pytest.fixture
def gpus(clean):
    """Two GPUs, of which nothing is said in the environment."""
    for name in (FRACTION, OLDER, PREALLOCATE):
        clean.setenv(name, "")
        clean.delenv(name)
    clean.setattr(host, "_accelerator", lambda: "gpu")
    clean.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    clean.setattr(host, "_chosen_here", set())
    return clean


@pytest.mark.parametrize(("workers", "each"), [(1, None), (2, None), (3, "0.375"), (6, "0.250")])
def test_workers_share_the_memory_of_a_gpu(gpus, workers, each):
    host.set_up(workers=workers)
    environment = host.share(workers - 1, workers).environment
    assert environment.get(FRACTION) == os.environ.get(FRACTION) == each
    # Only the process that starts them takes nothing in advance.
    assert os.environ[PREALLOCATE] == "false" and PREALLOCATE not in environment
    assert host.settings().get(FRACTION) == each


def test_a_process_alone_has_what_jax_gives_it(gpus):
    host.set_up()
    assert not {FRACTION, PREALLOCATE} & os.environ.keys()
    assert host.memory_setting() == ""


@pytest.mark.parametrize("name", [FRACTION, OLDER])
def test_what_the_user_says_of_memory_stays(gpus, name):
    gpus.setenv(name, "0.4")
    host.set_up(workers=4)
    environment = host.share(3, 4).environment
    # JAX refuses to have both.
    assert {key: environment[key] for key in (FRACTION, OLDER) if key in environment} == {
        name: "0.4"
    }
    assert host.memory_setting() == f"{name}=0.4"
    with pytest.raises(UserError, match=rf"^3 processes on a GPU with {name}=0.4 .* start fewer"):
        host.share(0, 6)
    gpus.setenv(name, "half")
    with pytest.raises(UserError, match=f"{name}=half is no number"):
        host.set_up(workers=4)


def test_the_order_of_sums_on_a_gpu_is_fixed_where_asked(gpus):
    flag = "--xla_gpu_deterministic_ops"
    gpus.setenv("XLA_FLAGS", "--xla_dump_to=x")
    host.set_up()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x"
    for _ in range(2):
        host.set_up(deterministic=True)
        assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=x {flag}=true"
    assert host.settings()["XLA_FLAGS"].endswith(f"{flag}=true")
    gpus.setenv("XLA_FLAGS", f"{flag}=false")
    with pytest.raises(UserError, match="--deterministic contradicts"):
        host.set_up(deterministic=True)
    gpus.setenv("XLA_FLAGS", "")
    for accelerator, name in (("tpu", "a TPU"), ("", "a CPU")):
        gpus.setattr(host, "_accelerator", lambda a=accelerator: a)
        with pytest.raises(UserError, match=f"for a GPU; {name} computes the same"):
            host.set_up(deterministic=True)
        assert os.environ["XLA_FLAGS"] == ""


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("jax_enable_x64", True),
        ("jax_disable_jit", True),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
        ("jax_random_seed_offset", 3),
    ],
)
def test_settings_that_change_what_is_computed_are_refused(name, other):
    devices.check_settings()
    before = getattr(jax.config, name)
    try:
        jax.config.update(name, other)
        with pytest.raises(UserError, match=rf"{name}={other}.* unset {name.upper()}"):
            devices.check_settings()
        with pytest.raises(UserError), devices.refusals():
            pytest.fail("training began")
    finally:
        jax.config.update(name, before)


COUNT = "xla_force_host_platform_device_count"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"JAX_ENABLE_X64": "1"}, "jax_enable_x64"),
        ({"JAX_ENABLE_X64": "maybe"}, "maybe"),
        ({"JAX_PLATFORMS": "nonsense"}, "nonsense"),
        ({"JAX_NUM_CPU_DEVICES": "0"}, "JAX_NUM_CPU_DEVICES=0 leaves no device"),
        ({"XLA_FLAGS": "--xla_nonsense=1"}, "Unknown flag in XLA_FLAGS: --xla_nonsense=1; correct"),
        ({"XLA_FLAGS": "nonsense"}, 'Could not open file "nonsense"'),
        ({"XLA_FLAGS": f"--{COUNT}=x"}, f"Couldn't interpret value x for flag {COUNT}; correct"),
        ({"XLA_FLAGS": f"--{COUNT}=0"}, f"{COUNT}=0 leaves no device"),
    ],
)
def test_a_bad_environment_is_one_line(environment, said, tmp_path):
    arguments = ["--config=configs/testing.py", f"--workdir={tmp_path / 'run'}"]
    code, error = started(arguments, **environment)
    assert code == 2 and said in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_program_is_kept_where_only_this_user_writes(clean, tmp_path, capsys):
    host.set_up()
    cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert cache.is_relative_to(tmp_path) and cache.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_a_cache_that_others_write_to_is_not_used(clean, mode, capsys):
    Path(host._compilation_cache()).chmod(mode)
    host.set_up()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert "others may write to it" in capsys.readouterr().err


def test_a_cache_of_another_user_is_not_used(clean, capsys):
    host._compilation_cache()
    clean.setattr(os, "geteuid", lambda: os.getuid() + 1)
    host.set_up()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert "another user's" in capsys.readouterr().err


@pytest.mark.slow
def test_a_user_without_home_and_entry_trains(tmp_path):
    """As in a container that is started with the number of a user."""
    run = tmp_path / "run"
    code = """
        import pwd, runpy, sys
        from pathlib import Path

        def unknown(*_):
            raise KeyError("uid not found")

        pwd.getpwuid = pwd.getpwnam = unknown
        sys.argv = ["main.py", *sys.argv[1:]]
        sys.path.insert(0, ".")
        runpy.run_path("main.py", run_name="__main__")
    """
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
    compiled = {"JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"]}

    def started(*arguments, **more):
        return subprocess.run(
            [
                sys.executable,
                "-c",
                textwrap.dedent(code),
                "--config=configs/testing.py",
                *arguments,
            ],
            cwd=ROOT,
            env=environment | more,
            capture_output=True,
            text=True,
        )

    done = started(f"--workdir={run}", **compiled)
    assert (done.returncode, done.stderr) == (0, "") and (run / "results_test.json").exists()
    done = started("--workdir=~/run")  # where no place for compiled programs is given either
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "give the directory without ~" in done.stderr


@pytest.mark.slow
def test_a_damaged_program_in_the_cache_is_replaced(tmp_path):
    code = (
        "from eanet import host; host.set_up(); import jax, jax.numpy as jnp;"
        "print(jax.jit(lambda x: jnp.linalg.norm(x @ x.T).sum())(jnp.ones((8, 8))))"
    )
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path),
        f"JAX_{LEAST_SECONDS}": "0",
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)

    def run():
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return done.stdout

    printed = run()
    entries = {path: path.read_bytes() for path in tmp_path.rglob("*-cache")}
    assert entries
    kinds = (lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"x" + data[1:])
    for number, path in enumerate(entries):
        path.write_bytes(kinds[number % len(kinds)](entries[path]))
    assert run() == printed
    for path, data in entries.items():
        assert len(path.read_bytes()) > len(data) // 2
    before = {path: path.stat().st_mtime_ns for path in entries}
    assert run() == printed
    assert {path: path.stat().st_mtime_ns for path in entries} == before  # read, not written again


def test_a_limit_of_the_control_group_counts(tmp_path, monkeypatch):
    machine = host.physical_memory()
    files = [tmp_path / name for name in ("none", "max", "limit", "more")]
    for path, text in zip(files[1:], ("max\n", "123456\n", f"{2 * machine}\n"), strict=True):
        path.write_text(text)
    monkeypatch.setattr(host, "_memory_limits", lambda: files)
    assert host.physical_memory() == 123456


@pytest.mark.parametrize("limited", [resource.RLIMIT_DATA, resource.RLIMIT_AS])
def test_a_limit_of_the_process_counts(limited, monkeypatch):
    def limits(kind):
        return (123456 if kind == limited else resource.RLIM_INFINITY), resource.RLIM_INFINITY

    monkeypatch.setattr(resource, "getrlimit", limits)
    assert host.physical_memory() == 123456


def test_processes_that_are_started_together_share_the_memory(monkeypatch):
    alone = host.physical_memory()
    environment = host.share(1, 4).environment
    monkeypatch.setattr(os, "environ", environment)
    assert host.physical_memory() == alone // 4
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1000, 1000))
    assert host.physical_memory() == 1000  # a limit of the process is its own


def test_an_accelerator_that_jax_does_not_use_is_said(tmp_path, monkeypatch):
    device = tmp_path / "nvidia0"
    monkeypatch.setattr(host, "_ACCELERATORS", {str(device): "an NVIDIA GPU"})
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert host.unused_accelerator() == ""
    device.touch()
    assert "an NVIDIA GPU is in this machine" in host.unused_accelerator()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert host.unused_accelerator() == ""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert host.unused_accelerator() == ""


@pytest.mark.slow
def test_a_model_answers_the_same_in_a_process_of_double_precision(trained, tmp_path):
    """`load` is for any process; what a notebook has set for itself stays as it is."""
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    code = (
        f"import numpy as np, eanet; m = eanet.load({str(trained)!r}); d = {str(tmp_path)!r}; "
        "np.save(d + '/out.npy', m.predict(np.load(d + '/images.npy')))"
    )
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    expected = eanet.load(trained).predict(images)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)
