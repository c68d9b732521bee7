"""What the results of a study say of the dial: made-up scores in which every answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from study_results import write_cell

from training.bench.report import __main__ as report
from training.bench.report.dial import GAIN, render_dial
from training.bench.report.rows import Rows, read_rows, settings
from training.bench.report.tables import means
from training.bench.study.conditions import MAIN_METRICS, Conditions
from training.bench.study.restoration import Recipe

CONDITIONS = Conditions(Recipe(), metrics=(*MAIN_METRICS, "pattern", "dots"))


def study(folder: Path, *, gain: float = 0.3, control: float = 0.2) -> Rows:
    """L1, and two dials on which each 0.1 dB buys a share of L1's ST-LPIPS; the control also loses CVVDP."""
    write_cell(folder, "sr", "l1")
    for name, share, price in (("ours", gain, 0.0), ("random", control, 0.05)):
        for dial in (0.0, 0.5, 1.0, 2.0):
            write_cell(
                folder, "sr", f"{name}~{dial:g}", psnr=-0.1 * dial, stlpips=-0.27 * share * dial, cvvdp=-price * dial
            )
    return read_rows(folder, CONDITIONS)["sr"]


def table_cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def lines(text: str) -> dict[tuple[str, str], tuple[str, str]]:
    """(against, claim) -> measured, verdict."""
    return {(line[0], line[1]): (line[2], line[-1]) for line in table_cells(text)}


def test_settings_are_read_in_the_order_of_the_dial(tmp_path: Path) -> None:
    rows = study(tmp_path)
    write_cell(tmp_path, "sr", "ours")  # without a setting: none of the dial's
    assert [row.dial for row in settings(rows, "ours")] == [0, 0.5, 1, 2]


@pytest.mark.parametrize(("gain", "verdict"), [(0.2, "yes"), (0.05, "no")])
def test_what_the_price_buys_is_read_between_the_settings(tmp_path: Path, gain: float, verdict: str) -> None:
    found = lines(render_dial("sr", study(tmp_path, gain=gain)))
    measured, holds = found["`l1`, 0.1 dB under L1", "ST-LPIPS lower by 12 % at least"]
    assert GAIN["sr"] == 0.12
    assert holds == verdict
    assert measured.strip("*").startswith(f"{-100 * gain:+.1f} %")  # at 1, where the price is 0.1 dB
    assert found["`l1`, 0.1 dB under L1", "CVVDP at most 0.01 lower"][1] == "yes"


def test_a_setting_answers_for_all_of_its_metrics(tmp_path: Path) -> None:
    """L1 has more PSNR and more CVVDP, and yet no network at 0.1 dB under it has L1's CVVDP."""
    write_cell(tmp_path, "sr", "l1")
    for dial in (0.0, 1.0, 2.0):
        write_cell(tmp_path, "sr", f"ours~{dial:g}", psnr=-0.1 * dial, stlpips=-0.1 * dial, cvvdp=-0.05 * dial)
    found = lines(render_dial("sr", read_rows(tmp_path, CONDITIONS)["sr"]))
    measured, holds = found["`l1`, 0.1 dB under L1", "CVVDP at most 0.01 lower"]
    assert measured == "**-0.0500 [-0.0500, -0.0500]**"
    assert holds == "no"


def test_the_control_with_the_same_term_is_the_one_to_beat(tmp_path: Path) -> None:
    found = lines(render_dial("sr", study(tmp_path)))
    assert found["`random`, at equal PSNR", "CVVDP higher"][1] == "yes"
    assert found["`random`, at equal ST-LPIPS", "PSNR higher"][1] == "yes"
    (tmp_path / "other").mkdir()
    found = lines(render_dial("sr", study(tmp_path / "other", control=0.4)))
    assert found["`random`, at equal PSNR", "ST-LPIPS lower"][1] == "no"


def test_a_rival_that_costs_less_is_met_where_it_stands(tmp_path: Path) -> None:
    write_cell(tmp_path, "sr", "msssim-l1", psnr=-0.05, stlpips=-0.27 * 0.2, cvvdp=0.01)
    found = lines(render_dial("sr", study(tmp_path, gain=0.3)))
    measured, holds = found["`msssim-l1`, at its PSNR", "ST-LPIPS lower"]
    assert measured.strip("*").startswith(f"{-0.27 * 0.3 / 2 + 0.27 * 0.2:+.4f}")
    assert holds == "no"
    write_cell(tmp_path, "sr", "vgg", psnr=-0.3, stlpips=-0.27 * 0.3)
    write_cell(tmp_path, "sr", "vgg", ratio=1.0, psnr=-0.05, stlpips=-0.27 * 0.1)
    found = lines(render_dial("sr", read_rows(tmp_path, CONDITIONS)["sr"]))
    assert found["`vgg`, 0.1 dB under L1", "ST-LPIPS lower"][1] == "yes"  # VGG's mixes reach that place
    assert found["`vgg`, at its ST-LPIPS", "PSNR higher"][1] == "yes"
    assert found["`vgg`, at its ST-LPIPS", "PSNR higher"][0].strip("*").startswith("+0.200")


def test_what_is_free_must_cost_no_psnr(tmp_path: Path) -> None:
    claim = "PSNR not lower, and ST-LPIPS lower by 5 % at least"
    rows = study(tmp_path)
    assert lines(render_dial("sr", rows))["`l1`", claim][1] == "no"  # at 0 nothing is gained either
    write_cell(tmp_path, "sr", "ours~0.5", ratio=1.0, psnr=0.01, stlpips=-0.03)
    measured, holds = lines(render_dial("sr", read_rows(tmp_path, CONDITIONS)["sr"]))["`l1`", claim]
    assert measured.startswith("`ours~0.5 + L1, 1`")
    assert holds == "yes"


def test_a_price_of_nothing_that_may_be_one_is_by_the_mean_only(tmp_path: Path) -> None:
    write_cell(tmp_path, "sr", "l1")
    write_cell(tmp_path, "sr", "ours~0", psnr=0.05, stlpips=-0.05, noise=0.004)
    claim = "PSNR not lower, and ST-LPIPS lower by 5 % at least"
    assert lines(render_dial("sr", read_rows(tmp_path, CONDITIONS)["sr"]))["`l1`", claim][1] == "yes"
    write_cell(tmp_path, "sr", "ours~0", psnr=0.0005, stlpips=-0.05, noise=0.004)
    measured, holds = lines(render_dial("sr", read_rows(tmp_path, CONDITIONS)["sr"]))["`l1`", claim]
    assert "PSNR +" in measured
    assert holds == "mean only"


def test_the_losses_of_other_tasks_are_met_at_equal_psnr(tmp_path: Path) -> None:
    rows = study(tmp_path)
    assert not [line for line in lines(render_dial("sr", rows)) if "ours:" in line[0]]
    for dial in (0.0, 1.0, 2.0):
        write_cell(tmp_path, "sr", f"ours:jpeg~{dial:g}", psnr=-0.1 * dial, stlpips=-0.05 * dial)
    found = lines(render_dial("sr", read_rows(tmp_path, CONDITIONS)["sr"]))
    assert found["`ours:jpeg`, at equal PSNR", "ST-LPIPS lower"][1] == "yes"
    assert found["`ours:jpeg`, at equal PSNR", "CVVDP higher"][1] == "no"


@pytest.mark.parametrize("metric", ["pattern", "dots"])
@pytest.mark.parametrize(("grid", "verdict"), [(0.05, "yes"), (0.3, "no")])
def test_a_grid_up_to_the_recommended_setting_is_counted(
    tmp_path: Path, metric: str, grid: float, verdict: str
) -> None:
    for dial in (0.0, 1.0, 2.0):
        better: Any = {metric: grid * dial}
        write_cell(tmp_path, "sr", f"ours~{dial:g}", **better)
    write_cell(tmp_path, "sr", "l1")
    found = lines(render_dial("sr", read_rows(tmp_path, CONDITIONS)["sr"]))
    assert found["`l1`", f"`ours~1`: {metric.title()} at most 1.1 times"][1] == verdict
    assert ("`l1`", f"`ours~2`: {metric.title()} at most 1.1 times") not in found


def test_a_grid_that_nobody_measured_leaves_its_claim_open(tmp_path: Path) -> None:
    study(tmp_path)
    rows = read_rows(tmp_path, replace(CONDITIONS, metrics=MAIN_METRICS))["sr"]
    assert lines(render_dial("sr", rows))["`l1`", "`ours~1`: Dots at most 1.1 times"] == ("no results", "open")


def test_seeds_are_those_of_the_metric(tmp_path: Path) -> None:
    """A mean of some seeds is not shown as one of all, and a claim counts the seeds that it stands on."""
    for seed, loss in product((0, 1), ("l1", "ours~1")):
        path = write_cell(tmp_path, "sr", loss, seed=seed)
        if (seed, loss) == (1, "l1"):
            result = json.loads(path.read_text())
            for scores in result["evaluations"]["crop256"]["4"].values():
                del scores["dots"]
            path.write_text(json.dumps(result))
    rows = read_rows(tmp_path, CONDITIONS)["sr"]
    shown = {cells[0]: cells[-1] for cells in table_cells(means(rows, ["dots"]))}
    assert shown["`l1`"] == ""
    assert float(shown["`ours~1`"]) > 0
    seeds = {tuple(cells[:2]): cells[3] for cells in table_cells(render_dial("sr", rows))}
    assert seeds["`l1`", "`ours~1`: Dots at most 1.1 times"] == "1"
    assert seeds["`l1`", "`ours~1`: Pattern at most 1.1 times"] == "2"


@pytest.mark.parametrize(("jod", "verdict"), [(9.6, "yes"), (9.9, "no")])
def test_what_is_seen_is_counted_by_images(tmp_path: Path, jod: float, verdict: str) -> None:
    rows = study(tmp_path)
    text = render_dial("sr", rows, {"a": jod, "b": jod, "c": 9.99})
    assert text.splitlines()[-1].split("|")[-2].strip() == verdict
    assert render_dial("sr", rows).splitlines()[-1].split("|")[-2].strip() == "open"


def test_the_command_writes_the_verdicts_on_the_dial(tmp_path: Path) -> None:
    study(tmp_path)
    (tmp_path / "visible.json").write_text(json.dumps({"sr": {"a": 9.5}}))
    assert report.main([str(tmp_path), "--visible", str(tmp_path / "visible.json")]) == 0
    text = (tmp_path / "verdicts.md").read_text()
    assert "## sr (level 4): the dial" in text
    assert "median 9.50" in text
