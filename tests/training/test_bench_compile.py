"""The benchmark of torch.compile, in small: the same steps without code generation."""

from pathlib import Path

import pytest

from training.bench.cost import compile as bench


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_loss_is_one_graph_for_all_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(bench, "SHAPES", ((2, 3, 24, 20), (2, 3, 28, 33), (2, 3, 31, 27), (2, 3, 40, 23)))
    assert bench.main(["--backend", "aot_eager", "--json", str(tmp_path / "compile.json")]) == 0
    printed = capsys.readouterr().out
    assert "network and loss" in printed
    results = bench.measure("aot_eager")
    assert results["loss"]["graphs"] == results["network and loss"]["graphs"] == 2  # one size, then any size
