"""A distortion of one's own: it may treat its argument as it likes, and what is wrong with it is said at once."""

import json
import re

import pytest
import torch
from own import NOISE, own_run, write_image, write_module

from task_losses import TaskLoss
from training import export, train
from training.builtin.codecs import jpeg
from training.builtin.noise import gaussian_noise
from training.config import Config
from training.distortions import make_distortion
from training.images import open_image, pyramid
from training.run_folder import RunFolder
from training.trial import misplacement


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finished(folder):
    return RunFolder(folder / "run").load_checkpoint()["finished"]


ADDED = "0.2 * torch.rand(image.shape, generator=generator)"
PURE = f"def f(image, generator): return image + {ADDED}\n"


@pytest.fixture(scope="module")
def pure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pure")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert own_run(folder, PURE) == 0
    return RunFolder(folder / "run").load_checkpoint()


@pytest.mark.parametrize(
    "rude",
    [
        f"def f(image, generator):\n    image += {ADDED}\n    return image\n",
        f"def f(image, generator):\n    result = image + {ADDED}\n    image[..., :5] = 1\n    return result\n",
        f"def f(image, generator):\n    result = image + {ADDED}\n    image.mul_(0.5).resize_(1)\n    return result\n",
        # It keeps what it was given and what it returned, and changes both when it is called again.
        f"kept = []\ndef f(image, generator):\n    [x.zero_() for x in kept]\n    result = image + {ADDED}\n"
        "    kept[:] = [image, result]\n    return result\n",
        f"buffers = {{}}\ndef f(image, generator):\n    x = buffers.setdefault(image.shape, torch.empty_like(image))\n"
        f"    return torch.add(image, {ADDED}, out=x)\n",
        f"def f(image, generator): return (image.requires_grad_() + {ADDED}).transpose(2, 3).contiguous().mT\n",
    ],
    ids=["adds to it", "writes into it", "scales and shrinks it", "keeps it", "fills a buffer", "wants its gradient"],
)
def test_what_a_distortion_does_to_its_argument_changes_no_weight(here, pure, rude):
    assert own_run(here, rude) == 0
    other = RunFolder(here / "run").load_checkpoint()
    for a, b in zip(pure["finished"], other["finished"], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    for a, b in zip(pure["material"]["levels"], other["material"]["levels"], strict=True):
        assert torch.equal(a, b)


def test_what_is_returned_stays_as_it_was(here):
    name = write_module(here, "kept = []\ndef f(image, generator):\n    kept.append(image)\n    return image\n")
    distort = make_distortion(Config(task="own", distortion=f"{name}:f"))
    image = torch.full((1, 3, 12, 12), 0.25)
    result = distort(image, torch.Generator())
    __import__(name).kept[0].fill_(9)
    assert torch.equal(result, image)
    assert (image == 0.25).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(image): return image\n", "def f(image, generator); it takes (image)"),
        ("def f(image, generator, strength): return image\n", "it takes (image, generator, strength)"),
        ("f = 3\n", "it is of type int"),
        ("def f(image, generator): return image * 255\n", "returned values up to 2"),
        ("def f(image, generator): return image\n", "returned the image as it was 3 times"),
        ("def f(image, generator): return (image * 255).round() / 255\n", "returned the image as it was 3 times"),
        ("def f(image, generator): return image.nothing\n", "AttributeError: 'Tensor' object has no attribute"),
        ("def f(image, generator): return image.half()[..., 1:]\n", "must return a floating point tensor of shape"),
        ("def f(image, generator): return (image * 255).byte()\n", "must return a floating point tensor of shape"),
        ("def f(image, generator): return image / 0\n", "values that are not finite"),
        ("raise RuntimeError('not today')\n", "cannot import the distortion"),
        ("import sys; sys.exit(1)\n", "cannot import the distortion"),
        ("def f(image, generator) return image\n", "SyntaxError"),
    ],
)
def test_what_cannot_work_is_refused_in_a_line_before_the_folder_is_made(here, capsys, source, message):
    assert own_run(here, source) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in said
    assert not (here / "run").exists()


def test_an_error_inside_of_it_names_its_line(here, capsys):
    assert own_run(here, "def f(image, generator):\n    return image + unknown\n") == 2
    assert re.search(r"f failed: NameError: name 'unknown' is not defined \(.*own_distortion_\d+\.py, line 3\)",
                     capsys.readouterr().err)  # fmt: skip


def with_noise(expression):
    noise = "0.02 * torch.randn(image.shape, generator=generator)"
    return f"def f(image, generator):\n    x = image + {noise}\n    return {expression}\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (with_noise("x * 4 - 2"), "far outside of [0, 1]"),
        (with_noise("image + (x - image) / 1000"), "grey levels only"),
        ("def f(image, generator): return image + 0.1 * torch.rand(image.shape)\n", "same generator gave two results"),
        ("n = [0]\ndef f(image, generator):\n    n[0] += 1\n    return image * 0.99 ** n[0]\n", "gave two results"),
        (with_noise("x").replace("x =", "generator.manual_seed(0)\n    x ="), "do not seed it"),
        (with_noise("x.roll((2, -3), (2, 3))"), "moved by 2 pixels down and -3 to the right (3 of 3 calls)"),
        (with_noise("x.flip(-1)"), "mirrored left to right"),
        (with_noise("x.flip(-2)"), "upside down"),
    ],
)  # fmt: skip
def test_what_is_strange_is_said_in_a_line_and_trained(here, capsys, source, message):
    assert own_run(here, source) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: own_distortion_")]
    assert len(warnings) == 1
    assert message in warnings[0]


@pytest.mark.parametrize(
    "source",
    [
        NOISE,
        "def f(image, generator): return torch.nn.functional.avg_pool2d(image, 5, 1, 2, count_include_pad=False)\n",
        "def f(image, generator): return image.pow(0.5 + torch.rand((), generator=generator))\n",
        "from functools import partial\ndef g(image, generator, by): return image * by\nf = partial(g, by=0.9)\n",
    ],
    ids=["noise", "blur", "gamma", "partial"],
)
def test_an_ordinary_distortion_is_trained_without_a_word(here, capsys, source):
    assert own_run(here, source) == 0
    assert "warning" not in capsys.readouterr().err


def test_identity_is_a_distortion_where_the_pyramid_distorts(here):
    assert own_run(here, "def f(image, generator): return image\n", "--upscale", "--wiener", "0") == 0


@pytest.mark.parametrize("photograph", ["chelsea", "astronaut"])
def test_misplaced_images_are_known_from_distorted_ones(photograph):
    image = pyramid(open_image(f"skimage:{photograph}")[0], 8, 0.75, 200)[-1]
    draws = torch.Generator().manual_seed(0)
    blurred = torch.nn.functional.avg_pool2d(image, 9, 1, 4, count_include_pad=False)
    in_place = [image, gaussian_noise(image, 100 / 255, draws), jpeg(image, 5), blurred, 1 - image, image * 0.1]
    assert [misplacement(image, x) for x in in_place] == [None] * len(in_place)
    unrelated = [torch.rand(image.shape, generator=draws), torch.full_like(image, 0.5)]
    assert [misplacement(image, x) for x in unrelated] == [None, None]
    one = image.roll(1, -1)
    assert misplacement(image, gaussian_noise(one, 50 / 255, draws)) == "moved by 0 pixels down and 1 to the right"
    cut = torch.nn.functional.pad(image, (5, -5, -3, 3))
    assert misplacement(image, cut) == "moved by -3 pixels down and 5 to the right"
    assert misplacement(image, jpeg(image.flip(-1), 30)) == "mirrored left to right"
    assert misplacement(image, image.flip(-1, -2)) == "turned by 180 degrees"


def test_a_flat_photograph_is_refused(here, capsys):
    import numpy as np

    np.save("photo.npy", np.full((40, 40, 3), 128, np.uint8))
    assert own_run(here) == 2
    assert "photo.npy is flat" in capsys.readouterr().err
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("size", "flags"),
    [
        ((60, 400), []),
        ((400, 60), []),
        ((20, 24), []),
        ((14, 14), []),
        ((60, 400), ["--ratio", "0.5", "--scales", "3"]),
    ],
)
def test_a_photograph_that_is_too_small_or_long_names_settings_that_work(here, capsys, size, flags):
    write_image(here / "photo.npy", *size)
    flags = ["--scales", "8", "--longest-side", "100", "--steps", "1", *flags]
    assert own_run(here, NOISE, *flags) == 2
    said = capsys.readouterr().err
    assert f"the image photo.npy, {size[1]}x{size[0]} pixels" in said
    assert "a critic needs 11 on the shorter side" in said
    assert not (here / "run").exists()
    advice = re.findall(r"--(?:scales|longest-side) \d+", said)
    assert advice
    for index, words in enumerate(advice):
        out = ["--out", str(here / f"advised-{index}")]
        assert own_run(here, NOISE, *flags, *words.split(), *out) == 0


def test_an_image_smaller_than_a_critic_has_no_settings_that_fit(here, capsys):
    write_image(here / "photo.npy", 10, 40)
    assert own_run(here) == 2
    assert "; use an image with a longer shorter side" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gone", "how"), [("both", "deleted"), ("photo.npy", "replaced"), ("module", "replaced"), ("both", "replaced")]
)
def test_export_needs_neither_photograph_nor_module_and_tells_of_those_of_the_run(here, capsys, gone, how):
    assert own_run(here) == 0
    before = export.export(RunFolder(here / "run")).read_bytes()
    module = next(here.glob("own_distortion_*.py"))
    for path in [here / "photo.npy"] * (gone != "module") + [module] * (gone != "photo.npy"):
        path.unlink()
        if how == "replaced" and path == module:
            path.write_text("def f(image, generator): return image * 0.1\n")
        elif how == "replaced":
            write_image(path, seed=1)
    capsys.readouterr()
    assert export.main([str(here / "run")]) == 0
    said = capsys.readouterr().err
    assert ("another image now" in said) == (how == "replaced" and gone != "module")
    assert ("has changed" in said) == (how == "replaced" and gone != "photo.npy")
    after = here / "run" / "own.safetensors"
    assert after.read_bytes() == before
    info = TaskLoss(after).weights_info
    assert info["distortion"]["name"] == f"{module.stem}:f"
    assert len(info["distortion"]["sha256"]) == len(info["image"]["sha256"]) == 64


def stop_half_way(here, monkeypatch):
    honest, count = RunFolder.save_checkpoint, 0

    def dying(self, *arguments):
        nonlocal count
        honest(self, *arguments)
        count += 1
        if count == 3:  # in the middle of the second scale
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", dying)
        assert own_run(here) == 130


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_run_goes_on_with_the_photograph_that_it_began_with(here, monkeypatch, capsys, how):
    assert own_run(here) == 0
    whole = finished(here)
    (here / "run").rename(here / "whole")
    stop_half_way(here, monkeypatch)
    (here / "photo.npy").unlink()
    if how == "replaced":
        write_image(here / "photo.npy", seed=1)
    capsys.readouterr()
    assert train.main(["--out", str(here / "run"), "--resume"]) == 0
    assert ("is another image now" in capsys.readouterr().err) == (how == "replaced")
    for a, b in zip(whole, finished(here), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_does_not_go_on_with_another_distortion(here, monkeypatch, capsys):
    stop_half_way(here, monkeypatch)
    checkpoint = (here / "run" / "checkpoint.pt").read_bytes()
    module = next(here.glob("own_distortion_*.py"))
    source = module.read_text()
    module.write_text(source + "# another strength\n")
    assert train.main(["--out", str(here / "run"), "--resume"]) == 2
    assert f"the source of {module.stem}:f has changed" in capsys.readouterr().err
    assert (here / "run" / "checkpoint.pt").read_bytes() == checkpoint
    module.write_text(source)
    assert train.main(["--out", str(here / "run"), "--resume"]) == 0


def test_the_source_is_where_the_function_is_defined_too(here):
    from training.distortions import OwnSource, own_source

    inner = write_module(here, NOISE)
    outer = write_module(here, f"from {inner} import f\n")
    settings = Config(task="rain", distortion=f"{outer}:f")
    first = own_source(settings)
    (here / f"{inner}.py").write_text("# other\n" + NOISE)
    assert own_source(settings) != first
    assert own_source(Config(task="rain", distortion="math:sqrt")) == OwnSource("math:sqrt", None)


def test_the_checkpoint_names_image_and_distortion(here):
    assert own_run(here) == 0
    material = RunFolder(here / "run").load_checkpoint()["material"]
    image, source = open_image("photo.npy")
    assert json.loads(material["image"])["sha256"] == source.sha256
    assert json.loads(material["distortion"])["sha256"] is not None
    for kept, level in zip(material["levels"], pyramid(image, 2, 0.75, 32)[1:], strict=True):
        assert torch.equal(kept, level)
