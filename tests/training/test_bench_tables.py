"""Tables and verdicts from made-up result files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from study_results import write_cell

from training.bench.report import __main__ as report
from training.bench.report.bootstrap import Interval
from training.bench.report.rows import candidates, front, read_rows
from training.bench.report.tables import difference, render
from training.bench.report.verdicts import Claim, render_verdicts, wrong_losses
from training.bench.study.conditions import Conditions
from training.bench.study.restoration import Recipe

CONDITIONS = Conditions(Recipe())


def verdicts(folder: Path, *arguments: str) -> list[list[str]]:
    """Cells of each line of verdicts.md, as the command line writes it."""
    assert report.main([str(folder), *arguments]) == 0
    lines = (folder / "verdicts.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def holds(lines: list[list[str]], against: str, claim: str) -> str:
    (found,) = [line[-1] for line in lines if line[:2] == [f"`{against}`" if "`" not in against else against, claim]]
    return found


def test_tables_and_verdicts_are_written_where_they_are_wanted(tmp_path: Path) -> None:
    for loss in ("l1", "random", "ours"):
        write_cell(tmp_path, "sr", loss)
    assert report.main([str(tmp_path), "--tables", str(tmp_path / "mine.md")]) == 0
    assert "`ours`" in (tmp_path / "mine.md").read_text()
    assert "`ours`" in (tmp_path / "verdicts.md").read_text()


def test_a_folder_without_results_of_the_recipe_is_explained(tmp_path: Path) -> None:
    write_cell(tmp_path, "sr", "l1", recipe=Recipe(steps=7))
    with pytest.raises(ValueError, match="holds 1 result files, 0 of them of the recipe"):
        read_rows(tmp_path, CONDITIONS)


def test_a_weight_file_that_was_made_anew_is_a_row_of_its_own(tmp_path: Path) -> None:
    write_cell(tmp_path, "sr", "ours", identity="aaaaaaaaaaaaaaa", psnr=1.0)
    write_cell(tmp_path, "sr", "ours", identity="bbbbbbbbbbbbbbb", psnr=2.0)
    write_cell(tmp_path, "sr", "l1")
    rows = read_rows(tmp_path, CONDITIONS)["sr"]
    assert list(rows) == ["l1", "ours (aaaaaaaaaaaa)", "ours (bbbbbbbbbbbb)"]
    reference = rows["l1"].mean("psnr")
    assert reference is not None
    assert rows["ours (bbbbbbbbbbbb)"].mean("psnr") == pytest.approx(reference + 2)


def test_any_row_can_be_the_baseline(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_cell(tmp_path, "sr", "ours", seed=seed, cvvdp=0.02)
        write_cell(tmp_path, "sr", "authors@full", seed=seed)
    rows = read_rows(tmp_path, CONDITIONS)
    text = render(rows, CONDITIONS, ["authors@full", "not there"])
    assert "Difference to `authors@full`" in text
    assert "**+0.0200 [+0.0200, +0.0200]**" in text
    assert "not there" not in text
    found = difference(rows["sr"]["ours"], rows["sr"]["authors@full"], "cvvdp")
    assert found is not None
    assert found.mean == pytest.approx(0.02)


def test_tables_say_whether_results_settle(tmp_path: Path) -> None:
    path = write_cell(tmp_path, "sr", "ours")
    result = json.loads(path.read_text())
    result["curve"] = [{"step": step, "psnr": step / 100} for step in (0, 100, 200, 300)]
    path.write_text(json.dumps(result))
    text = render(read_rows(tmp_path, CONDITIONS), CONDITIONS, [])
    assert "| `ours` | +1.000 |  |" in text


def test_a_front_runs_from_the_loss_alone_to_l1(tmp_path: Path) -> None:
    for ratio in (None, 2.0, 0.5):
        write_cell(tmp_path, "sr", "ours", ratio=ratio)
    write_cell(tmp_path, "sr", "l1")
    write_cell(tmp_path, "sr", "random")
    rows = read_rows(tmp_path, CONDITIONS)["sr"]
    assert [row.label for row in front(rows, "ours")] == ["ours", "ours + L1, 2", "ours + L1, 0.5", "l1"]
    assert [row.label for row in front(rows, "random")] == ["random"]


@pytest.mark.parametrize(
    ("claim", "interval", "verdict"),
    [
        (Claim("psnr"), (0.2, 0.1, 0.3), "yes"),
        (Claim("psnr"), (0.2, -0.1, 0.3), "mean only"),
        (Claim("psnr"), (-0.2, -0.3, -0.1), "no"),
        (Claim("psnr", 0.1), (-0.05, -0.09, 0.0), "yes"),
        (Claim("psnr", 0.1), (-0.05, -0.11, 0.0), "mean only"),
        (Claim("stlpips"), (-0.2, -0.3, -0.1), "yes"),
        (Claim("stlpips"), (-0.2, -0.3, 0.1), "mean only"),
        (Claim("stlpips"), (0.2, 0.1, 0.3), "no"),
    ],
)
def test_a_claim_holds_by_its_interval(claim: Claim, interval: tuple[float, ...], verdict: str) -> None:
    assert claim.holds(Interval(*interval)) == verdict
    assert claim.holds(None) == "open"


def test_verdicts_follow_the_scores(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_cell(tmp_path, "sr", "ours", seed=seed, stlpips=-0.01, psnr=-0.05, cvvdp=0.01, flip=-0.01, ssim=0.01)
        write_cell(tmp_path, "sr", "l1", seed=seed)
        write_cell(tmp_path, "sr", "random", seed=seed, psnr=0.1)
        write_cell(tmp_path, "sr", "authors@full", seed=seed)
        write_cell(tmp_path, "sr", "ours:denoise", seed=seed, stlpips=-0.02)
    lines = verdicts(tmp_path)
    assert holds(lines, "l1", "ST-LPIPS lower") == "yes"
    assert holds(lines, "l1", "PSNR at most 0.15 lower") == "yes"
    assert holds(lines, "l1", "SSIM higher") == "yes"
    assert holds(lines, "random", "PSNR at most 0.1 lower") == "no"
    assert holds(lines, "ours:denoise", "ST-LPIPS lower") == "no"
    assert holds(lines, "ours:denoise", "CVVDP higher") == "yes"
    assert holds(lines, "ours:jpeg", "everything") == "open"
    assert holds(lines, "vgg", "everything") == "open"
    most = "better on 4 of the 5 metrics, CVVDP and FLIP among them, 2 for certain"
    assert holds(lines, "authors@full", most) == "yes"
    # FLIP must be among the four.
    for seed in (0, 1, 2):
        write_cell(tmp_path, "sr", "authors@full", seed=seed, flip=-0.02, psnr=-1)
    assert holds(verdicts(tmp_path), "authors@full", most) == "no"


def test_verdicts_compare_the_mixes_of_both_losses(tmp_path: Path) -> None:
    write_cell(tmp_path, "jpeg", "l1", level=10)
    for loss, sharper in (("ours", 0.02), ("random", 0.01)):
        for ratio, share in ((None, 1.0), (1.0, 0.5)):
            write_cell(tmp_path, "jpeg", loss, ratio=ratio, level=10, psnr=-0.2 * share, stlpips=-sharper * share)
    lines = verdicts(tmp_path)
    assert holds(lines, "`random`, at equal PSNR", "ST-LPIPS lower") == "yes"
    assert holds(lines, "`random`, at equal ST-LPIPS", "PSNR higher") == "yes"
    lines = verdicts(tmp_path, "--ours", "random")
    assert holds(lines, "`random`, at equal PSNR", "ST-LPIPS lower") == "no"


def test_the_wrong_losses_of_a_task_are_those_of_the_others() -> None:
    assert wrong_losses("sr", candidates(["ours"])) == ["ours:denoise", "ours:jpeg"]
    assert wrong_losses("sr", candidates(["ours@full"])) == ["ours:denoise@full", "ours:jpeg@full"]
    assert wrong_losses("sr", candidates(["ours + L1, 1"])) == ["ours:denoise + L1, 1", "ours:jpeg + L1, 1"]
    assert wrong_losses("jpeg", candidates(["sr=a", "jpeg=b"])) == ["a"]
    with pytest.raises(ValueError, match="TASK=LABEL"):
        candidates(["sr=a", "b"])


def test_cost_is_judged_by_one_run_of_the_speed_benchmark(tmp_path: Path) -> None:
    write_cell(tmp_path, "sr", "ours")
    ours = {"ours": 1.0, "ours, DenoiseLoss": 1.0, "ours, SRLoss": 1.2}
    times = {**ours, "VGG16, 4 blocks": 3.5, "authors' algorithm": 11.0}
    of_shape = {name: {"milliseconds": 9.0, "times_ours": ratio} for name, ratio in times.items()}
    memory = {"ours": 1.0, "ours, DenoiseLoss": 0.95, "ours, SRLoss": 0.9, "VGG16, 4 blocks": 1.9}
    (tmp_path / "speed.json").write_text(
        json.dumps({"time": {"1x3x256x256": of_shape, "8x3x96x96": of_shape}, "memory_mb": memory})
    )
    lines = verdicts(tmp_path, "--speed", str(tmp_path / "speed.json"))
    judged = {line[0]: line[-1] for line in lines[-12:]}
    assert list(judged.values()) == ["yes", "no", "yes", "no", "yes", "no", "yes", "yes", "no", "no", "no", "yes"]
    for number, claim in enumerate(judged):
        assert f" of {('JPEGLoss', 'DenoiseLoss', 'SRLoss')[number // 4]}" in claim


def test_the_committed_speed_figures_can_be_judged(tmp_path: Path) -> None:
    write_cell(tmp_path, "sr", "ours")
    committed = Path(report.__file__).parents[1] / "results" / "speed-cpu.json"
    text = render_verdicts(read_rows(tmp_path, CONDITIONS), CONDITIONS, {"sr": "ours"}, committed)
    assert text.count("VGG16") == 9
