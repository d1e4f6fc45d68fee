"""What is asked for becomes paths, in an order that a person expects."""

import inspect
import os
import sys

import pytest

from eanet.errors import UserError
from eanet.inference.asked import Asked

TREE = (
    "b/10.png", "b/9.png", "b/009.png", "b/a/1.JPG", "a/z.png", "c10.webp", "c9.webp", "notes.md",
    ".hidden/1.png", "b/.2.png", "Thumbs.db",
)  # fmt: skip
IN_ORDER = [
    "c9.webp", "c10.webp", "a/z.png", "b/009.png", "b/9.png", "b/10.png", "b/a/1.JPG",
]  # fmt: skip


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in TREE:
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path / "tree"


def paths(*asked):
    return list(Asked(asked, pytest.fail).paths(lambda: False))


def test_a_folder_has_its_images_and_those_below_by_number_and_name(tree):
    assert paths(".") == [f"./{name}" for name in IN_ORDER]
    assert paths(str(tree)) == [f"{tree}/{name}" for name in IN_ORDER]


def test_what_is_no_image_is_counted(tree):
    asked = Asked(["."], pytest.fail)
    assert len(list(asked.paths(lambda: False))) == 7
    assert asked.ignored == 4 and asked.example in (*TREE, ".hidden")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("b/9.png", ["b/9.png"]),
        ("c*", ["c9.webp", "c10.webp"]),
        ("b/*", ["b/009.png", "b/9.png", "b/10.png", "b/a/1.JPG"]),
        ("[b]/[!0]*.png", ["b/9.png", "b/10.png"]),
        ("**/*.png", ["a/z.png", "b/009.png", "b/9.png", "b/10.png"]),
        ("**", ["a/z.png", "b/009.png", "b/9.png", "b/10.png", "b/a/1.JPG", "c9.webp", "c10.webp"]),
        ("../tree/?/z.png", ["../tree/a/z.png"]),
    ],
)
def test_globs(tree, asked, found):
    assert paths(asked) == found
    assert paths(f"{tree}/{asked}") == [f"{tree}/{name}" for name in found]


def test_a_name_that_looks_like_a_glob_is_a_name(tree):
    (tree / "c[9].png").touch()
    assert paths("c[9].png") == ["c[9].png"]


def test_several_are_taken_as_they_are_given(tree):
    assert paths("c9.webp", "a", "b/9.png", "c9.webp") == [
        "c9.webp", "a/z.png", "b/9.png", "c9.webp"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"a\nb", ["a", "b"]),
        (b"a\r\n\r\n  \nb c \r\n", ["a", "b c "]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        (b"~/a\n*.png\n-\n", ["~/a", "*.png", "-"]),
        (b"\xff.png\n", ["\udcff.png"]),
        (b"", []),
        (b"a" * 60_000 + b"\n" + b"b" * 60_000, ["a" * 60_000, "b" * 60_000]),
    ],
)
def test_a_list_has_a_path_a_line(tree, content, found):
    (tree / "list.txt").write_bytes(content)
    assert paths("list.txt") == found


@pytest.mark.parametrize(("content", "line"), [(b"a\nb\0c", 2), (b"a" * 200_000, 1)])
def test_what_is_no_list_is_refused(tree, content, line):
    (tree / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"list\.txt is no list of paths, one a line: .* {line}$"):
        paths("list.txt")


def test_a_list_that_is_still_written_is_waited_for_until_it_is_stopped(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr(os, "dup", lambda _: reader)
    os.write(writer, b"a\nb\nc")
    asked = Asked(["-"], pytest.fail).paths(lambda: True)
    assert list(asked) == ["a", "b"]
    os.close(writer)


def test_links_to_folders_are_not_followed_and_counted(tree):
    os.symlink("..", tree / "a" / "up")
    os.symlink(tree / "b", tree / "a" / "beside")
    os.symlink("loop", tree / "a" / "loop")
    os.symlink("z.png", tree / "a" / "y.png")
    os.symlink("nowhere", tree / "a" / "x.png")  # for the decoder to name
    asked = Asked(["a"], pytest.fail)
    assert list(asked.paths(lambda: False)) == ["a/x.png", "a/y.png", "a/z.png"]
    assert asked.ignored == 3
    assert paths("a/**/*.png") == ["a/x.png", "a/y.png", "a/z.png"]
    os.symlink("b", tree / "to_b")
    assert paths("to_b")[0] == "to_b/009.png"  # asked for by its name


def test_a_folder_that_cannot_be_read_is_named_and_counted(tree, monkeypatch):
    scandir, said = os.scandir, []

    def refusing(folder):
        if folder.endswith("/b"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    asked = Asked(["."], said.append)
    assert list(asked.paths(lambda: False)) == ["./c9.webp", "./c10.webp", "./a/z.png"]
    assert said == ["./b cannot be read: Permission denied"] and asked.unreadable == 1


def test_folders_may_be_deeper_than_a_recursion(tree):
    deep = "/".join(["a", *["d"] * 100])
    os.makedirs(deep)
    (tree / deep / "x.png").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 50)
    try:
        found = paths("a")
    finally:
        sys.setrecursionlimit(limit)
    assert found == ["a/z.png", f"{deep}/x.png"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("nowhere.png", "there is no --images=nowhere.png"),
        ("", "there is no --images=;"),
        (".h*/1.png", r"nothing fits --images=\.h"),
        ("*.tiff", r"nothing fits --images=\*.tiff"),
        ("a**b/*", "can only be an entire path component|nothing fits"),
        ("notes.md", "notes.md is not an image, by its ending, and no list of paths"),
        ("/dev/zero", "not an image, by its ending"),
        ("pipe.txt", "pipe.txt cannot be read: not a regular file"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_done(tree, asked, told):
    os.mkfifo(tree / "pipe.txt")
    with pytest.raises(UserError, match=told):
        Asked(["a", asked], pytest.fail)
