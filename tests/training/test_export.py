"""Export: folding is exact, the file is read back, released weights are safe."""

import json
import shlex

import pytest
import torch
import torch.nn.functional as F

from task_losses import TaskLoss, WeightsError, weight_for
from task_losses.weights import named_layers
from training import export, train
from training.config import Config
from training.networks import Block, Discriminator
from training.provenance import RETIRED, ROOT
from training.run_folder import RunFolder
from training.scale import Scale

SMALL = ["--task", "jpeg", "--scales", "2", "--longest-side", "24", "--channels", "4", "--steps", "4"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "jpeg"
    assert train.main(["--out", str(path), *SMALL, "--input-range", "-1", "1"]) == 0
    return RunFolder(path)


def lively(width=6):
    """A discriminator with running statistics and affine numbers that are not the initial ones."""
    torch.manual_seed(0)
    discriminator = Discriminator(width)
    for block in discriminator.blocks:
        assert isinstance(block, Block)
        torch.nn.init.normal_(block.norm.get_buffer("running_mean"))
        torch.nn.init.uniform_(block.norm.get_buffer("running_var"), 0.2, 3)
        torch.nn.init.normal_(block.norm.bias)
    return discriminator.eval().double()


@pytest.mark.parametrize("input_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
@torch.no_grad()
def test_folding_changes_no_feature(input_range):
    discriminator = lively()
    low, high = input_range
    image = torch.rand(1, 3, 17, 19, dtype=torch.float64)
    x = image
    for index, (weight, bias) in enumerate(export.fold(discriminator, input_range)):
        x = F.conv2d(x, weight.double(), bias.double())
        x = F.leaky_relu(x, 0.2) if index < 4 else x
        expected = discriminator.outputs(low + (high - low) * image)[index]
        assert (x - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_file_is_reproducible_and_says_where_it_is_from(finished):
    first = export.export(finished).read_bytes()
    assert export.export(finished).read_bytes() == first
    info = TaskLoss(finished.path / "jpeg.safetensors").weights_info
    assert info["image"]["name"] == "skimage:chelsea"
    assert "CC0" in info["image"]["licence"]
    assert info["config"]["steps"] == 4
    assert len(info["code_commit"].split("-")[0]) in (40, len("unknown"))
    assert info["versions"]["torch"] == torch.__version__


def test_the_manifest_entry_describes_the_file(finished):
    import hashlib

    data = export.export(finished).read_bytes()
    entry = json.loads((finished.path / "manifest_entry.json").read_text())
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert entry["size"] == len(data)
    assert entry["architecture"]["channels"] == [4, 4]
    assert entry["cost"]["seconds"] > 0


def test_the_command_in_the_entry_makes_the_same_weights(finished, tmp_path):
    export.export(finished)
    entry = json.loads((finished.path / "manifest_entry.json").read_text())
    flags = entry["command"].removeprefix("python training/train.py ").split()
    assert train.main(["--out", str(tmp_path), *flags]) == 0
    one, other = (TaskLoss(export.export(folder)).discriminators[1] for folder in (finished, RunFolder(tmp_path)))
    assert torch.equal(one.get_buffer("weight2"), other.get_buffer("weight2"))


def test_the_command_can_be_given_again_whatever_the_settings(tmp_path):
    """Empty lists, negative numbers, what the shell would take apart."""
    odd = ["--texture-taps", "--no-inherit", "--input-range", "-1", "1", "--distortion", "cp {in} {out}", "jpeg"]
    paths = [tmp_path / "first", tmp_path / "again"]
    assert train.main(["--out", str(paths[0]), *SMALL, *odd]) == 0
    words = shlex.split(info_of(RunFolder(paths[0]))["command"])
    assert train.main(["--out", str(paths[1]), *words[2:]]) == 0
    first, second = (Config.from_dict(json.loads((path / "config.json").read_text())) for path in paths)
    assert first.used == second.used
    assert first.texture_taps == ()


def test_features_that_differ_are_caught(finished, monkeypatch):
    honest = export.fold

    def wrong(discriminator, input_range):
        (weight, bias), *rest = honest(discriminator, input_range)
        return [(weight, bias + 0.01 * bias.abs().max()), *rest]

    monkeypatch.setattr(export, "fold", wrong)
    with pytest.raises(WeightsError, match="features differ"):
        export.export(finished)
    assert not (finished.path / "jpeg.safetensors").exists()


@pytest.mark.parametrize("scale", [0, 1])
def test_features_that_are_no_numbers_are_caught(finished, scale):
    loss = TaskLoss(export.export(finished))
    trained = export.open_run(finished)
    assert export.largest_error(trained, loss) <= export.TOLERANCE
    with torch.no_grad():
        trained.discriminators[scale].blocks[3].norm.get_buffer("running_mean")[0] = float("nan")
    assert not export.largest_error(trained, loss) <= export.TOLERANCE


@pytest.mark.parametrize("scale", [0, 1])
def test_an_export_whose_comparison_is_no_number_leaves_no_file(finished, monkeypatch, scale):
    """A layer that answers zero to everything differs by 0 / 0."""
    honest = export.open_run

    def with_a_dead_layer(*arguments):
        trained = honest(*arguments)
        norm = trained.discriminators[scale].blocks[0].norm
        torch.nn.init.zeros_(norm.weight)
        torch.nn.init.zeros_(norm.bias)
        return trained

    monkeypatch.setattr(export, "open_run", with_a_dead_layer)
    with pytest.raises(WeightsError, match=r"features differ .* by nan"):
        export.export(finished, form={"taps": (0, 1, 4)})
    assert not (finished.path / "jpeg.safetensors").exists()


def test_a_file_that_cannot_be_read_back_is_removed(finished, monkeypatch):
    monkeypatch.setattr(export, "named_layers", lambda layers: {k: 1e9 * x for k, x in named_layers(layers).items()})
    with pytest.raises(WeightsError, match="not be finite"):
        export.export(finished)
    assert not (finished.path / "jpeg.safetensors").exists()


def test_an_unfinished_run_is_refused(tmp_path, monkeypatch, capsys):
    count = 0
    honest = Scale.request

    def dying(self, *arguments):
        nonlocal count
        count += 1
        if count > 4:
            raise KeyboardInterrupt
        return honest(self, *arguments)

    monkeypatch.setattr(Scale, "request", dying)
    assert train.main(["--out", str(tmp_path), *SMALL]) == 130
    assert export.main([str(tmp_path)]) == 2
    assert "has finished 1 of 2 scales" in capsys.readouterr().err


@pytest.fixture
def project(tmp_path):
    for folder in ("task_losses", "training"):
        (tmp_path / folder).mkdir()
    manifest = {"schema": 1, "version": "1", "repo_id": "a/b", "revision": "c" * 40, "license": "MIT", "weights": {}}
    (tmp_path / "weights_manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def released(project):
    return json.loads((project / "weights_manifest.json").read_text())


def test_a_release_updates_the_manifest_and_takes_back_the_pin(project):
    entry = {"filename": "jpeg-v1.safetensors", "sha256": "1", "size": 3}
    export.release(entry, "jpeg", b"one", root=project)
    assert (project / "task_losses/weights/jpeg-v1.safetensors").read_bytes() == b"one"
    assert released(project)["weights"]["jpeg"] == entry
    assert released(project)["revision"] is None


def release(project, task, version, content):
    entry = {"filename": f"{task}-{version}.safetensors", "sha256": content, "size": len(content)}
    export.release(entry, task, content.encode(), root=project)


def contents(project):
    return {path.name: path.read_text() for path in (project / "task_losses/weights").iterdir()}


def pin(project):
    manifest = released(project) | {"revision": "d" * 40}
    (project / "weights_manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("pinned", [True, False], ids=["published", "not published"])
def test_a_name_never_comes_twice_with_other_bytes(project, pinned):
    for task in ("sr", "jpeg"):
        release(project, task, "v1", f"{task} one")
    if pinned:
        pin(project)
    release(project, "sr", "v2", "sr two")  # which takes the pin back
    assert released(project)["revision"] is None
    before = contents(project), released(project)
    for again in (("jpeg", "v1", "jpeg other"), ("sr", "v1", "sr other")):  # listed, and not any more
        with pytest.raises(ValueError, match="another version"):
            release(project, *again)
    assert (contents(project), released(project)) == before
    assert before[0] == {"jpeg-v1.safetensors": "jpeg one", "sr-v2.safetensors": "sr two"}


def test_a_name_may_come_again_with_its_own_bytes(project):
    for version, content in (("v1", "one"), ("v1", "one"), ("v2", "two"), ("v1", "one")):
        release(project, "jpeg", version, content)
        assert contents(project) == {f"jpeg-{version}.safetensors": content}
    with pytest.raises(ValueError, match="another version"):
        release(project, "jpeg", "v2", "other")


def test_a_version_is_no_way_out_of_the_folder(project):
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        release(project, "jpeg", "v1/../../v1", "one")
    assert [path.name for path in project.iterdir() if path.is_file()] == ["weights_manifest.json"]


def test_retired_names_are_not_listed_and_listed_ones_not_retired():
    listed = {entry["filename"] for entry in released(ROOT)["weights"].values()}
    retired = json.loads((ROOT / RETIRED).read_text())
    assert retired
    assert not listed & retired.keys()


def info_of(folder, *flags):
    path = export.export(folder, **dict(flags))
    return TaskLoss(path).weights_info


def test_weights_have_the_licence_that_is_given_and_no_other(finished, tmp_path, capsys):
    """This project's only where nothing in them is anybody else's."""
    assert info_of(finished)["license"] == "MIT"
    assert info_of(finished, ("licence", "cc-by-4.0"))["license"] == "cc-by-4.0"
    own = RunFolder(tmp_path)
    assert train.main(["--out", str(tmp_path), "--distortion", "grain", *SMALL, "--image-licence", "mine"]) == 0
    capsys.readouterr()
    info = info_of(own)
    assert "license" not in info
    assert "--licence" in capsys.readouterr().out
    assert export.main([str(tmp_path), "--licence", "cc0-1.0"]) == 0
    TaskLoss(tmp_path / "jpeg.safetensors").save_pretrained(tmp_path / "shared")
    assert 'license: "cc0-1.0"' in (tmp_path / "shared" / "README.md").read_text()


@pytest.mark.parametrize(("left", "says"), [([], "is not there"), (["config.json"], "ended before its first")])
def test_a_folder_without_a_checkpoint_is_told_how_to_get_one(finished, tmp_path, capsys, left, says):
    for name in left:
        (tmp_path / name).write_bytes((finished.path / name).read_bytes())
    assert export.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "training.train" in said
    assert "--resume" not in said


def test_the_file_says_the_weight_at_which_it_pulls_as_hard_as_l1_on_what_its_critics_met(finished):
    trained = export.open_run(finished)
    path = export.export(finished)
    said = TaskLoss(path).weights_info["weight_beside_l1"]
    level, distorted = trained.examples[-1]
    assert said["weight"] == pytest.approx(weight_for(TaskLoss(path), distorted, level.expand_as(distorted)), rel=0.05)
    assert said["measured_on"].endswith("pixels, distorted, restored by a linear filter of 5x5 pixels")
    gentle, hard = (  # at all scales, since the run has too few for texture elsewhere
        info_of(finished, ("form", {"texture_skips": 0, "texture_pull": pull}))["weight_beside_l1"]["weight"]
        for pull in (0.1, 3.0)
    )
    assert hard < gentle  # the term is part of what pulls


def test_file_and_card_name_the_distortion_and_the_command(finished, tmp_path):
    info = info_of(finished)
    assert info["distortion"] == {"name": "jpeg", "strengths": {"jpeg_quality": [5, 40]}}
    TaskLoss(finished.path / "jpeg.safetensors").save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "--scales 2" in info["command"]
    assert "--scales" in card
    assert "jpeg_quality" in card
    assert "config." not in card  # all settings, where the command says what there is to say
    assert "random_scale" not in card
