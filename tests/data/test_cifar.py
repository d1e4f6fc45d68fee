import dataclasses
import hashlib
import importlib.util
import io
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from eanet.data import cifar
from eanet.data.load import load_dataset
from eanet.errors import UserError
from tests.helpers.data_fixtures import random_images

SIZES = {"train": 8, "test": 4}


@pytest.fixture(autouse=True)
def own_directories(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name)
    )


def records(images, labels, label_bytes):
    """As the University of Toronto describes it: labels, then 1024 red, green, blue bytes."""
    return b"".join(
        bytes([77] * (label_bytes - 1) + [label])
        + b"".join(image[..., channel].tobytes() for channel in range(3))
        for image, label in zip(images, labels, strict=True)
    )


def make_archive(name, monkeypatch, **changes):
    """A tiny archive in the official layout; its digest and sizes take the official ones' place."""
    real = cifar.ARCHIVES[name]
    classes = {"cifar10": 10, "cifar100": 100}[name]
    expected, members = {}, {}
    for part, files in (("train", real.train), ("test", real.test)):
        count = SIZES[part]
        images, labels = random_images(count * len(files), (32, 32, 3), classes, seed=len(part))
        expected[part] = (images, labels)
        for k, file in enumerate(files):
            chunk = slice(k * count, (k + 1) * count)
            members[file] = records(images[chunk], labels[chunk], real.label_bytes)
    names = [f"class_{number}" for number in range(classes)]
    members[real.class_names] = "\n".join([*names, ""]).encode()
    members |= changes.get("members", {})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = buffer.getvalue()
    patched = dataclasses.replace(
        real, size=len(content), sha256=hashlib.sha256(content).hexdigest(), examples_per_file=SIZES
    )
    monkeypatch.setitem(cifar.ARCHIVES, name, patched)
    return content, expected, tuple(names)


@pytest.fixture
def mirror(monkeypatch):
    """A server on this machine; what it gives is set by path in `files`."""
    files, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("EANET_CIFAR_MIRROR", f"http://127.0.0.1:{server.server_port}/mirror/")
    yield files, asked
    server.shutdown()
    server.server_close()
    thread.join()


def load(name, lines=None):
    return load_dataset(name, val_fraction=0, log=[].append if lines is None else lines.append)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_downloaded_once_and_exact(name, mirror, monkeypatch, tmp_path):
    files, asked = mirror
    content, expected, names = make_archive(name, monkeypatch)
    file = cifar.ARCHIVES[name].file
    files[f"/mirror/{file}"] = content
    for _ in range(2):
        dataset = load(name)
        assert dataset.class_names == names
        for part, (images, labels) in expected.items():
            np.testing.assert_array_equal(getattr(dataset, part).images, images)
            np.testing.assert_array_equal(getattr(dataset, part).labels, labels)
    assert len(asked) == 1
    # The kept archive serves again where the decoded arrays are lost.
    for array in (tmp_path / "xdg" / "eanet").glob("*/train_images.npy"):
        array.unlink()
    load(name)
    assert len(asked) == 1


def test_an_archive_in_the_data_directory_is_used(mirror, monkeypatch, tmp_path):
    content, expected, _ = make_archive("cifar100", monkeypatch)
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(content)
    np.testing.assert_array_equal(load("cifar100").test.labels, expected["test"][1])
    assert not mirror[1]


def test_a_wrong_archive_is_not_used(mirror, monkeypatch, tmp_path):
    content, _, _ = make_archive("cifar100", monkeypatch)
    changed = bytearray(content)
    changed[50] ^= 1
    path = tmp_path / "cifar-100-binary.tar.gz"
    path.write_bytes(changed)
    mirror[0]["/mirror/cifar-100-binary.tar.gz"] = content
    lines = []
    load("cifar100", lines)
    assert any(str(path) in line and "not used" in line for line in lines)
    assert path.read_bytes() == changed


@pytest.mark.parametrize("given", ["wrong", "short", "long", "missing"])
def test_a_bad_download_is_one_line_and_leaves_nothing(given, mirror, monkeypatch, tmp_path):
    content, _, _ = make_archive("cifar100", monkeypatch)
    wrong = {"wrong": bytes(len(content)), "short": content[:-1], "long": content + b"x" * 10**6}
    if given in wrong:
        mirror[0]["/mirror/cifar-100-binary.tar.gz"] = wrong[given]
    with pytest.raises(UserError) as caught:
        load("cifar100")
    message = str(caught.value)
    reason = "404" if given == "missing" else "SHA-256"
    assert reason in message and "not installed" in message and "dataset.data_dir" in message
    assert "\n" not in message
    assert not list((tmp_path / "xdg").rglob("*.*"))


def test_a_mirror_that_does_not_speak_http(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("EANET_CIFAR_MIRROR", f"http://127.0.0.1:{server.getsockname()[1]}")

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"what?\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UserError, match=r"could not be read \(what\?"):
            load("cifar100")
        thread.join()


def test_an_archive_that_cannot_be_read_is_not_used(mirror, monkeypatch, tmp_path):
    content, _, _ = make_archive("cifar100", monkeypatch)
    path = tmp_path / "cifar-100-binary.tar.gz"
    path.symlink_to(path)
    mirror[0]["/mirror/cifar-100-binary.tar.gz"] = content
    lines = []
    load("cifar100", lines)
    assert any(str(path) in line and "not used" in line for line in lines)


def test_a_mirror_that_is_no_web_address(monkeypatch):
    monkeypatch.setenv("EANET_CIFAR_MIRROR", "file:///etc")
    with pytest.raises(UserError, match="EANET_CIFAR_MIRROR"):
        load("cifar100")


def test_members_of_another_size_are_refused(monkeypatch, tmp_path):
    content, _, _ = make_archive(
        "cifar100", monkeypatch, members={"cifar-100-binary/test.bin": bytes(3074 * 5)}
    )
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"test\.bin"):
        load("cifar100")


def test_digests_are_those_that_tfds_has():
    """Read as text from the installed package."""
    from pathlib import Path

    package = Path(importlib.util.find_spec("tensorflow_datasets").origin).parent
    listed = {}
    for path in package.rglob("*cifar10*"):
        for checksums in path.rglob("checksums.tsv") if path.is_dir() else ():
            for line in checksums.read_text().splitlines():
                _, size, digest, file = line.split("\t")
                listed[file] = (int(size), digest)
    for path in (package / "url_checksums").glob("cifar10*.txt"):
        for line in path.read_text().splitlines():
            fields = line.split()
            listed[fields[0].rsplit("/", 1)[-1]] = (int(fields[1]), fields[2])
    for archive in cifar.ARCHIVES.values():
        assert listed[archive.file] == (archive.size, archive.sha256)
