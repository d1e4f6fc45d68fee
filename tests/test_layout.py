"""The house as README.md describes it: imports go one way, and things are where it says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up: a folder imports from those before it and from itself alone.
FLOORS = (
    "eanet",  # the modules beside the packages
    "eanet/augment",
    "eanet/models",
    "eanet/data",
    "eanet/workdir",
    "eanet/checkpoints",
    "eanet/display",
    "eanet/cluster",
    "eanet/training",
    "eanet/inference",
    "eanet/atlas",
    "eanet/demo",
    "eanet/convert",
    "eanet/transfer",
    "eanet/export",
    "eanet/sweeps",
    "eanet/tools",
    "train.py",
    "main.py",
)
# The faces of the package: they name what others made, when it is asked for.
FACES = {"eanet/__init__.py", "eanet/__main__.py"}


def sources():
    """Every file of the program, as a path from the root of the project."""
    paths = [*ROOT.glob("eanet/**/*.py"), ROOT / "train.py", ROOT / "main.py"]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def file_of(module):
    """The file that a dotted name stands for; None where it is not of this project."""
    path = module.replace(".", "/")
    for candidate in (f"{path}.py", f"{path}/__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate
    return None


def imports(source):
    """The files of this project that a file imports, wherever in it that stands."""
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            yield from filter(None, (file_of(name.name) for name in node.names))
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                # A name in a package may be a module or something that its __init__ holds.
                found = file_of(f"{node.module}.{name.name}") or file_of(node.module)
                if found:
                    yield found


def floor(source):
    folder = source if source in FLOORS else str(Path(source).parent)
    return FLOORS.index(folder)


def upward(graph):
    return [
        f"{source} -> {target}"
        for source, targets in graph.items()
        for target in targets
        if source not in FACES
        and (target in FACES - {"eanet/__init__.py"} or floor(target) > floor(source))
    ]


def circles(graph):
    """Files that import one another, by taking away what nothing is imported by or imports."""
    left = {source: set(targets) - {source} for source, targets in graph.items()}
    while True:
        ends = {source for source, targets in left.items() if not targets & left.keys()}
        if not ends:
            return sorted(left)
        left = {source: targets for source, targets in left.items() if source not in ends}


@pytest.fixture(scope="module")
def graph():
    return {source: set(imports(source)) for source in sources() if source not in FACES}


def test_every_folder_has_its_floor(graph):
    for source in graph:
        assert floor(source) >= 0


def test_no_import_runs_upward(graph):
    assert upward(graph) == []
    assert upward(graph | {"eanet/rules.py": {"eanet/models/eanet.py"}}) == [
        "eanet/rules.py -> eanet/models/eanet.py"
    ]


def test_no_import_runs_in_a_circle(graph):
    assert circles(graph) == []
    assert "eanet/errors.py" in circles(graph | {"eanet/errors.py": {"eanet/rules.py"}})


def layout():
    return re.search(r"^## Layout\n(.*?)^## ", (ROOT / "README.md").read_text(), re.S | re.M)[1]


def test_the_layout_names_every_folder():
    folders = {f"{floor}/" for floor in FLOORS if (ROOT / floor).is_dir()}
    folders |= {"configs/", "tests/", "benchmarks/", "docs/"}
    named = set(re.findall(r"`([\w/]+/)`", layout()))
    assert folders <= named and all((ROOT / name).is_dir() for name in named)


def test_the_tasks_of_the_layout_lead_to_what_they_are_about():
    """Each row: a task, the file for it, and a word that stands in that file."""
    rows = re.findall(r"^\| ([^|`]+) \| `([\w./]+)`, `([^`|]+)` \|$", layout(), re.M)
    assert len(rows) >= 10
    for task, path, word in rows:
        assert word in (ROOT / path).read_text(), f"{task}: {path} has no {word}"


def test_the_tests_that_the_promises_name_are_there():
    text = (ROOT / "docs/reliability.md").read_text()
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?)?((?:::\w+)?)`", text)
    file, seen = "", 0
    for path, test in named:
        file = path or file
        if not path and not test:
            continue
        assert (ROOT / file).exists(), file
        if test:
            assert f"def {test[2:]}(" in (ROOT / file).read_text(), f"{file}{test}"
        seen += 1
    assert seen > 50
