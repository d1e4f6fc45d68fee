"""A run goes to the hub and comes back as a model, over HTTP with a server on this machine."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

import eanet
from eanet import config as config_lib
from eanet.__main__ import call
from eanet.errors import UserError
from eanet.files import local_path
from eanet.inference.evaluate import evaluate
from eanet.tools import push
from tests.helpers import hub_server
from tests.helpers.command_line import MAIN, environment

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs requirements-hub.txt")
constants = pytest.importorskip("huggingface_hub.constants")

NAME = f"{hub_server.USER}/digits"


@pytest.fixture
def at_hub(monkeypatch, tmp_path):
    """A hub without repositories, the user's token, and a cache with nothing in it."""
    with hub_server.serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # needs servers of its own
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def pushed(workdir, *options, name=NAME):
    push.main([str(workdir), name, *options], "push")


@pytest.fixture
def gone(at_hub, monkeypatch):
    """A function that takes the network away."""
    return lambda: monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def test_a_run_comes_back_as_the_same_model(trained, at_hub, gone, capsys):
    model = eanet.load(trained)
    images = np.random.default_rng(0).integers(0, 256, (5, *model.image_shape), np.uint8)
    pushed(trained)
    told = capsys.readouterr()
    files = at_hub.repositories[NAME].commits[-1]
    for name, data in files.items():
        assert name in told.out and f"{len(data):,}" in told.out
    assert told.err == ""
    back = eanet.load(f"hf:{NAME}")
    assert (back.step, back.class_names) == (model.step, model.class_names)
    np.testing.assert_array_equal(back.predict(images), model.predict(images))
    fetched = {request.rpartition("/")[2] for request in at_hub.requests if "/resolve/" in request}
    assert fetched == {"model.safetensors"}
    gone()
    np.testing.assert_array_equal(eanet.load(f"hf:{NAME}").predict(images), back.predict(images))


def test_what_is_sent_is_what_a_reader_needs_and_names_no_place_of_the_machine(copy, at_hub):
    config = json.loads((copy / "config.json").read_text())
    config["dataset"] |= {"data_dir": "/home/someone/data"}
    config["init_from"] = "/home/someone/runs/first"
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "run.json").unlink()
    (copy / "tensorboard" / "events.out.tfevents.-hparams").write_bytes(b"/home/someone/data")
    pushed(copy)
    files = at_hub.repositories[NAME].commits[-1]
    events = {n for n in files if n.startswith("tensorboard/events.out.tfevents.0")}
    pictures = {"curves.png", "confusion_test.png", "calibration_test.png"}
    plain = {"README.md", "config.json", "model.json", "model.safetensors"}
    assert events and files.keys() == plain | pictures | events
    assert not any(b"/home/someone" in data or os.fsencode(copy) in data for data in files.values())
    assert config_lib.from_values(json.loads(files["config.json"]), "config.json").model
    assert b"| init_from | first |" in files["README.md"]
    assert json.loads(files["model.json"])["class_names"] == list(map(str, range(10)))


def test_the_card_is_one_that_the_hub_understands(trained, at_hub):
    pushed(trained)
    text = at_hub.repositories[NAME].commits[-1]["README.md"].decode()
    data = huggingface_hub.ModelCard(text).data
    assert data.library_name == "eanet" and data.model_name == "digits"
    results = json.loads((trained / "results_test.json").read_text())
    stated = {result.metric_name: result.metric_value for result in data.eval_results}
    assert stated["Top-1 accuracy"] == results["accuracy"]
    assert {result.task_type for result in data.eval_results} == {"image-classification"}
    assert {result.dataset_type for result in data.eval_results} == {"digits"}
    for word in (f'eanet.load("hf:{NAME}")', f"--workdir=hf:{NAME}", "(confusion_test.png)"):
        assert word.replace('"', "'") in text


def test_a_dry_run_sends_nothing_and_needs_no_token(trained, at_hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    pushed(trained, "--dry_run")
    assert "model.safetensors" in capsys.readouterr().out
    assert at_hub.requests == [] and at_hub.repositories == {}


def test_pushing_again_replaces_and_leaves_no_events_of_another_run(trained, at_hub):
    pushed(trained)
    repository = at_hub.repositories[NAME]
    repository.commits[-1] |= {"tensorboard/events.out.tfevents.000009": b"", "notes.md": b"mine"}
    pushed(trained)
    assert "notes.md" in repository.commits[-1]
    assert "tensorboard/events.out.tfevents.000009" not in repository.commits[-1]
    assert len(repository.commits) == 3


def test_a_revision_is_a_branch_a_tag_or_a_commit(trained, at_hub):
    pushed(trained)
    repository = at_hub.repositories[NAME]
    repository.commits.append({})
    digest, _ = repository.commit("v1")
    for revision in ("v1", digest):
        assert eanet.load(f"hf:{NAME}@{revision}").class_names
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        eanet.load(f"hf:{NAME}")
    with pytest.raises(UserError, match="no such branch, tag or commit"):
        eanet.load(f"hf:{NAME}@v7")


def test_private_is_asked_for_and_never_only_believed(trained, at_hub, monkeypatch):
    pushed(trained, "--private")
    assert at_hub.repositories[NAME].private
    assert eanet.load(f"hf:{NAME}").class_names
    at_hub.repositories[NAME].private = False
    with pytest.raises(UserError, match="there and public"):
        pushed(trained, "--private")
    at_hub.repositories[NAME].private = True
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", f"{os.devnull}/none")
    with pytest.raises(UserError, match="is not there, or is private: set HF_TOKEN"):
        eanet.load(f"hf:{NAME}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("digits", "USER/NAME"),
        ("a/b/c", "USER/NAME"),
        ("someone/", "USER/NAME"),
        ("someone/two words", "alphanumeric"),
        ("someone/a--b", "--"),
        ("someone/../x", "USER/NAME"),
        ("someone/" + 97 * "a", "96"),
        ("someone/x.git", ".git"),
    ],
)
def test_a_name_that_the_hub_refuses_is_refused_before_anything_is_done(at_hub, name, told):
    with pytest.raises(UserError, match=told):
        pushed("/nonexistent", name=name)
    with pytest.raises(UserError, match=told):
        eanet.load(f"hf:{name}")
    assert at_hub.requests == []


@pytest.mark.parametrize("revision", ["", "../../x", "a b", "/etc", "a..b", "x\n"])
def test_a_revision_that_cannot_be_is_refused(at_hub, revision):
    with pytest.raises(UserError, match="no branch, tag or commit"):
        eanet.load(f"hf:{NAME}@{revision}")
    assert at_hub.requests == []


def test_one_line_says_why_nothing_could_be_sent(trained, at_hub, gone, monkeypatch):
    at_hub.repositories["another/digits"] = hub_server.Repository()
    with pytest.raises(UserError, match=r"403 you do not have write access.*USER/NAME of your own"):
        pushed(trained, name="another/digits")
    with pytest.raises(UserError, match="403 You may not create a model under another"):
        pushed(trained, name="another/new")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"401 Invalid credentials.*set HF_TOKEN"):
        pushed(trained)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="no token for the hub; set HF_TOKEN"):
        pushed(trained)
    with pytest.raises(UserError, match="nowhere is no directory of a run"):
        pushed("nowhere", "--dry_run")
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    gone()
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 cannot be reached") as refusal:
        pushed(trained)
    assert "\n" not in str(refusal.value)
    assert NAME not in at_hub.repositories


def test_without_network_and_cache_one_line_says_so(at_hub, gone):
    gone()
    with pytest.raises(UserError, match=r"cannot be reached.*not in the cache here"):
        eanet.load(f"hf:{NAME}")


def test_what_somebody_else_put_there_is_refused_and_not_executed(at_hub, tmp_path):
    theirs = tmp_path / "executed"
    code = f"cos\nmkdir\n(S'{theirs}'\ntR.".encode()  # a pickle
    files = {"model.safetensors": code, "config.json": code, "model.py": code}
    at_hub.repositories[NAME] = hub_server.Repository(commits=[files])
    with pytest.raises(UserError, match="no safetensors"):
        eanet.load(f"hf:{NAME}")
    assert not theirs.exists()


def test_evaluation_of_what_was_handed_on_gives_the_same_figures(trained, at_hub, tmp_path, capsys):
    pushed(trained)
    recorded = json.loads((trained / "results_test.json").read_text())
    file = tmp_path / "model.safetensors"
    file.write_bytes(at_hub.repositories[NAME].commits[-1][file.name])
    for place in (f"hf:{NAME}", file):
        results = evaluate(place)
        for key in ("accuracy", "loss", "ece", "num_examples", "examples_fingerprint", "step"):
            assert results[key] == recorded[key]
        assert f"not recorded: {place} is no directory of a run" in capsys.readouterr().out
    with pytest.raises(UserError, match="one checkpoint"):
        evaluate(f"hf:{NAME}", checkpoint="latest")


@pytest.mark.slow
def test_the_command_line_predicts_with_it(trained, at_hub, tmp_path):
    pushed(trained)
    Image.new("L", (8, 8), 99).save(tmp_path / "1.png")
    flags = ("--mode=predict", f"--workdir=hf:{NAME}", f"--images={tmp_path}", "--top=1")
    done = subprocess.run(
        [sys.executable, MAIN, *flags],
        env=environment() | {"HF_ENDPOINT": at_hub.url, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "1.png" in done.stdout and "1 image in" in done.stdout


@pytest.mark.slow
def test_tools_take_a_model_from_the_hub_and_give_what_they_give_of_its_run(
    trained, at_hub, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("eanet.host.set_up", lambda: None)
    monkeypatch.setattr("eanet.atlas.command.saved", lambda *_: b"a picture")
    pushed(trained)
    address = f"hf:{NAME}@main"
    for tool in (["export", "--format=safetensors"], ["atlas"]):
        with pytest.raises(UserError, match="is at the hub: say by --out= where to write here"):
            call([*tool, address])
    call(["export", address, "--format=safetensors", f"--out={tmp_path}/a.safetensors"])
    theirs = at_hub.repositories[NAME].commits[-1]["model.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == theirs
    call(["atlas", address, "--examples=1", f"--out={tmp_path}/atlas"])
    assert "<title>The memory of digits</title>" in (tmp_path / "atlas/index.html").read_text()
    call(["demo", address, f"--space={tmp_path}/space"])
    assert eanet.load(tmp_path / "space/runs/digits").step == eanet.load(trained).step
    capsys.readouterr()
    call(["compare", str(trained), address, str(tmp_path / "a.safetensors")])
    shown = capsys.readouterr().out
    assert shown.count("+0.00 to +0.00") == 2 and f"2  {address}" in shown


def test_where_a_directory_is_needed_an_address_is_refused(at_hub):
    for needs in (lambda: local_path(f"hf:{NAME}"), lambda: pushed(f"hf:{NAME}")):
        with pytest.raises(UserError, match="a model of the hub, and a directory is needed here"):
            needs()
    assert at_hub.requests == []


def test_a_run_without_results_is_sent_with_a_card_that_has_none(copy, at_hub):
    (copy / "results_test.json").unlink()
    pushed(copy)
    text = at_hub.repositories[NAME].commits[-1]["README.md"].decode()
    assert "Not evaluated yet" in text and "model-index" not in yaml.safe_load(text.split("---")[1])


def test_results_of_another_step_than_the_weights_are_left_out(copy, at_hub):
    path = copy / "results_test.json"
    results = json.loads(path.read_text())
    del results["sha256"]
    path.write_text(json.dumps({**results, "step": results["step"] + 1}))
    (copy / "metrics.jsonl").unlink()
    pushed(copy)
    assert b"Not evaluated yet" in at_hub.repositories[NAME].commits[-1]["README.md"]


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for act in (lambda: eanet.load(f"hf:{NAME}"), lambda: call(["push", "run", NAME])):
        with pytest.raises(UserError, match=r"pip install -r requirements-hub\.txt"):
            act()
