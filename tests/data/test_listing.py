"""Which images there are, by folders and by tables; none of them has to be an image for that."""

import json

import pytest

from eanet.data.base import Wanted
from eanet.data.file_names import is_ignored
from eanet.data.listing import list_images
from eanet.errors import UserError


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")


def listed(place, part=None, **wanted):
    listing = list_images(str(place), Wanted(part, **wanted))
    return {
        part: sorted((str(path.relative_to(listing.root)), name) for path, name in files)
        for part, files in listing.parts.items()
    }, listing.class_names


def refused(place, *words, part=None):
    with pytest.raises(UserError) as caught:
        list_images(str(place), Wanted(part))
    for word in words:
        assert word in str(caught.value)


def test_folders_below_a_class_belong_to_it_and_numbers_count_as_such(tmp_path):
    touch(tmp_path, *(f"{part}/{name}/x.png" for part in ("train", "test") for name in (1, 2, 10)))
    touch(tmp_path, "train/10/left/deep/y.png", "train/10/right/y.png", "train/2/.git/y.png")
    parts, names = listed(tmp_path)
    assert names == ("1", "2", "10")
    assert [path for path, name in parts["train"] if name == "10"] == [
        "train/10/left/deep/y.png", "train/10/right/y.png", "train/10/x.png",
    ]  # fmt: skip
    (tmp_path / "train/10/left/round").symlink_to(tmp_path / "train/10")
    refused(tmp_path, "train/10/left/round is a link to a folder")


SYSTEM = ["@Recycle", "@Recently-Snapshot", "@tmp", "RECYCLER", "FOUND.000", "Network Trash Folder",
          "_gsdata_", "#recycle", "@eaDir", "$Recycle.Bin", "IconCache.db", "Thumbs.db~", "~$x.png",
          "1.png~", "#1.png#", "1.png:Zone.Identifier", "x.LNK",
          "Thumbs.db:encryptable"]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM)
def test_what_systems_leave_is_no_class_and_no_image(tmp_path, name):
    touch(tmp_path, "train/a/x.png", "test/a/x.png", f"train/{name}/x.png", f"train/a/{name}")
    assert listed(tmp_path)[0]["train"] == [("train/a/x.png", "a")]
    assert list_images(str(tmp_path), Wanted()).ignored.hidden == {name: 2}
    for near in ("found", "cat#", "#1", "lnk", "a~b"):
        assert not is_ignored(near)


def test_texts_and_empty_folders_are_no_examples(tmp_path):
    layout = ("train/a/x.png", "train/b/x.png", "test/a/x.png", "test/a/notes.TXT", "test/b/README")
    touch(tmp_path, *layout, "train/License.md", "test/labels.xml")
    (tmp_path / "train" / "a" / "left").mkdir()
    listing = list_images(str(tmp_path), Wanted())
    assert {part: len(files) for part, files in listing.parts.items()} == {"train": 2, "test": 1}
    (note,) = listing.ignored.notes()
    assert note.startswith("ignored 5 texts or empty folders, such as ")
    # Where such a file counted as one that cannot be read, the draw of old runs counts on it.
    skipping = list_images(str(tmp_path), Wanted(skip_bad=True))
    assert {part: len(files) for part, files in skipping.parts.items()} == {"train": 2, "test": 3}
    touch(tmp_path, "train/b/x.heic", "train/b/y")  # these may be images: reading them will tell
    assert len(list_images(str(tmp_path), Wanted()).parts["train"]) == 4
    touch(tmp_path, "train/stray.png")
    refused(tmp_path, "train/stray.png lies beside the class folders; move it away")


@pytest.mark.parametrize("text", ["labels.txt", "labels.csv", "labels.JSONL"])
def test_one_folder_beside_a_list_is_no_class(tmp_path, text):
    touch(tmp_path, "images/x.png", "images/y.png", text)
    refused(tmp_path, f"{text} lies beside the class folders")
    touch(tmp_path, "more/x.png", "more/y.png")
    if text == "labels.txt":
        assert listed(tmp_path)[1] == ("images", "more")
    else:
        refused(tmp_path, f"or name folder:{tmp_path / text}")


def test_folders_beside_those_of_the_parts_are_named(tmp_path):
    touch(tmp_path, "train/a/x.png", "val/a/x.png", "test/a/x.png", "validation/a/x.png")
    touch(tmp_path, "unlabelled/x.png", "README.md", ".git/x")
    notes = list_images(str(tmp_path), Wanted()).ignored.notes()
    assert notes[0].startswith("ignored 1 hidden")
    assert notes[1].startswith("not read, 3 beside the folders of train and test: ")
    for name in ("validation", "unlabelled", "README.md"):
        assert name in notes[1]
    # What is evaluated alone says nothing of the others.
    assert len(list_images(str(tmp_path), Wanted("test")).ignored.notes()) == 1


def test_what_was_no_validation_split_of_a_run_is_none_when_it_goes_on(tmp_path):
    touch(tmp_path, "train/a/x.png", "valid/a/x.png", "test/a/x.png")
    assert set(listed(tmp_path)[0]) == {"train", "val", "test"}
    assert set(listed(tmp_path, holds_out=True)[0]) == {"train", "test"}
    touch(tmp_path, "val/a/y.png")
    assert listed(tmp_path, holds_out=True)[0]["val"] == [("val/a/y.png", "a")]
    for path in (tmp_path / "test").rglob("*.png"):
        path.unlink()
    (tmp_path / "test" / "a").rmdir()
    (tmp_path / "test").rmdir()
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    listing = list_images(str(tmp_path), Wanted(holds_out=True))
    assert set(listing.parts) == {"train", "test"} and listing.tested_on == "valid"


def test_a_lost_file_is_another_listing(tmp_path):
    touch(tmp_path, "train/a/x.png", "test/a/x.png")
    before = list_images(str(tmp_path), Wanted()).fingerprint
    (tmp_path / "train" / "a" / "link.png").symlink_to("nowhere.png")
    with_link = list_images(str(tmp_path), Wanted()).fingerprint
    (tmp_path / "train" / "a" / "link.png").rename(tmp_path / "train" / "a" / "z.png")
    assert len({before, with_link, list_images(str(tmp_path), Wanted()).fingerprint}) == 3


def test_some_of_each_class_are_held_out_and_few_change_sides(tmp_path):
    names = [f"{name}/{number}.png" for name, n in (("a", 50), ("b", 10), ("c", 2), ("d", 1))
             for number in range(n)]  # fmt: skip
    touch(tmp_path, *names)
    parts, classes = listed(tmp_path)
    counts = {part: [sum(name == c for _, name in files) for c in classes]
              for part, files in parts.items()}  # fmt: skip
    assert counts == {"train": [40, 8, 1, 1], "test": [10, 2, 1, 0]}
    assert listed(tmp_path) == (parts, classes)
    assert listed(tmp_path, "test")[0] == {"test": parts["test"]}
    refused(tmp_path, "no images of val", part="val")
    assert len(listed(tmp_path, test_fraction=0.5)[0]["test"]) == 31
    touch(tmp_path, *(f"a/more{number}.png" for number in range(5)))
    assert len({*listed(tmp_path)[0]["test"]} & {*parts["test"]}) >= 10


def test_folders_that_seem_to_be_parts_are_no_classes(tmp_path):
    touch(tmp_path, "training/a/x.png", "holdout/a/x.png")
    refused(tmp_path, "holdout seems to be a part", "train/CLASS")
    touch(tmp_path / "train", "a/x.png", "a/y.png")
    refused(tmp_path, "test/CLASS", f"folder:{tmp_path}/train")
    assert len(listed(tmp_path / "train")[0]["test"]) == 1
    touch(tmp_path / "of_vehicles", "train/x.png", "train/y.png", "car/x.png", "car/y.png")
    assert listed(tmp_path / "of_vehicles")[1] == ("car", "train")
    touch(tmp_path / "named.csv", "train/a/x.png", "test/a/x.png")
    assert listed(tmp_path / "named.csv")[1] == ("a",)
    (tmp_path / "named.csv" / "train" / "loop").symlink_to("loop")
    refused(tmp_path / "named.csv", "train/loop lies beside the class folders", part="train")
    touch(tmp_path / "lone", "a/x.png", "b/x.png")
    refused(tmp_path / "lone", "no class of two images")


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_a_validation_split_has_any_of_its_names(tmp_path, name):
    touch(tmp_path, "train/a/x.png", f"{name}/a/y.png")
    assert listed(tmp_path)[0]["test"] == [(f"{name}/a/y.png", "a")]
    touch(tmp_path, "test/a/z.png")
    parts, _ = listed(tmp_path)
    assert (parts["val"], parts["test"]) == ([(f"{name}/a/y.png", "a")], [("test/a/z.png", "a")])
    assert listed(tmp_path, "val")[0] == {"val": parts["val"]}


CSV = "path,label,split\nA/1.png, one ,train\nB/x.png,two,test\nB/y.png,two,train\n"
LINES = "".join(
    json.dumps(dict(zip(("path", "label", "split"), row.split(","), strict=True))) + "\n\n"
    for row in CSV.splitlines()[1:]
)


@pytest.mark.parametrize(("name", "text"), [("t.csv", "\ufeff" + CSV), ("t.JSONL", LINES)])
def test_a_table_names_the_images(name, text, tmp_path):
    (tmp_path / name).write_text(text, "utf-8")
    parts, names = listed(tmp_path / name)
    assert names == ("one", "two")
    assert parts == {"train": [("A/1.png", "one"), ("B/y.png", "two")],
                     "test": [("B/x.png", "two")]}  # fmt: skip
    assert listed(tmp_path / name, "test")[0] == {"test": parts["test"]}
    before = list_images(str(tmp_path / name), Wanted()).fingerprint
    touch(tmp_path, "A/1.png")
    assert list_images(str(tmp_path / name), Wanted()).fingerprint != before


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_one_part_of_a_table_may_stand_alone(part, tmp_path):
    (tmp_path / "t.csv").write_text(f"path,label,split\nx.png,a,{part}\n")
    assert listed(tmp_path / "t.csv", part)[0] == {part: [("x.png", "a")]}
    if part == "val":  # which is what is tested on where there is nothing else
        assert listed(tmp_path / "t.csv", "test")[0] == {"test": [("x.png", "a")]}


def test_a_table_without_splits_is_divided_as_a_folder_is(tmp_path):
    rows = "".join(f"{name}/{number}.png,{name}\n" for name in "ab" for number in range(10))
    (tmp_path / "t.csv").write_text("path,label\n" + rows)
    touch(tmp_path / "same", *(row.split(",")[0] for row in rows.splitlines()))
    assert listed(tmp_path / "t.csv") == listed(tmp_path / "same")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "t.csv is no CSV: its first line must name the columns path and label"),
        ("path,label\n", "has no rows"),
        ("file,class\nx.png,a\n", "it is 'file,class'"),
        ("path,label\nx.png\n", "line 2 has 1 cells"),
        ('path,label\n"x.png,a\n', "unexpected end"),
        ("path,label\n\nx.png,\n", "line 3: it must have a path and a label"),
        ("path,label\n/etc/x.png,a\n", "line 2: '/etc/x.png' must be a path below the folder"),
        ("path,label\na/../../x.png,a\n", "line 2: 'a/../../x.png' must be a path below"),
        ("path,label\nx.png,a\n./x.png,b\n", "line 3: {root}/x.png stands in line 2 already"),
        ("path,label,split\nx.png,a,dev\n", "line 2: its split 'dev' must be one of train, val"),
        ("path,label,split\nx.png,a,test\ny.png,a,\n", "line 3: it has no split, but other lines"),
        ("path,label,split\nx.png,a,train\n", "needs lines of train, and of test or val"),
        (b"path,label\nx.png,a\n\xff.png,a\n", "line 3: it is not UTF-8"),
        ("path,label\nx\0.png,a\n", "line 2: 'x\\x00.png' must be a path"),
        (f"path,label\nx.png,{'a' * 256}\n", "line 2: its label has more than 255 characters"),
    ],
)
def test_what_a_csv_cannot_mean_is_refused_by_its_line(text, told, tmp_path):
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(tmp_path / "t.csv", told.format(root=tmp_path))


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", "3", '{"path": "x"}', '{"path": 1, "label": "a"}', '{"path": "x", "label": true}',
     '{"path": "x", "label": "a", "split": ["train"]}', "[" * 9999,
     '{"path": "\\ud800.png", "label": "a"}'],
)  # fmt: skip
def test_what_a_json_line_cannot_mean_is_refused_by_its_line(line, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"path": "y.png", "label": 7}\n' + line + "\n")
    refused(tmp_path / "t.jsonl", "line 2: ")
