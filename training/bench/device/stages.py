"""What is run, the most valuable first, and how much of the time each part may take."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """A process.

    Attributes:
        stage: its module in this folder, and its file.
        name: among the stage's parts.
        share: of the budget: seconds, if the budget is :data:`BUDGET` and all parts run.
        needs: beside torch and numpy, in words; a part that misses it says so and is passed over.
        on_cpu: what it does on a machine without a GPU; empty where it is passed over there.
    """

    stage: str
    name: str
    share: int
    needs: str
    on_cpu: str

    @property
    def full_name(self) -> str:
        return f"{self.stage}.{self.name}"


_GPU = "a CUDA device"
_RECIPE = "scikit-image, or a folder of --prepare"

PARTS = (
    Part("kernels", "compile", 45, "Triton", "compiles two kernels"),
    Part("kernels", "selfcheck", 40, f"{_GPU}, Triton", "the reference in float32 in the kernels' place"),
    Part("losses", "eager", 25, "", "a small image"),
    Part("losses", "graph", 25, _GPU, ""),
    Part("values", "errors", 20, "", "a small image"),
    Part("values", "fused", 45, f"{_GPU}, Triton", ""),
    Part("losses", "fused", 40, f"{_GPU}, Triton", ""),
    Part("losses", "joined", 15, "", "a small image"),
    Part("recipes", "sr", 25, _RECIPE, "two small scales"),
    Part("recipes", "denoise", 25, _RECIPE, "two small scales"),
    Part("recipes", "jpeg", 30, _RECIPE, "two small scales"),
    Part("losses", "compile", 30, "a C compiler on a GPU", "a small image, without code generation"),
    Part("suite", "gpu", 70, "pytest", "one file, whose GPU tests are skipped"),
    Part("updates", "times", 30, "", "autograd and torch.compile without code generation"),
    Part("recipes", "profile", 15, _RECIPE, "two small scales"),
    Part("losses", "tiles", 45, f"{_GPU}, Triton", ""),
    Part("losses", "launches", 10, "", "a small image: operations of the CPU"),
    Part("losses", "fused_launches", 5, f"{_GPU}, Triton", ""),
    Part("updates", "launches", 10, "", "operations of the CPU"),
    Part("sanitizer", "step", 20, f"{_GPU}, compute-sanitizer of the CUDA toolkit", "the step alone"),
)
BUDGET = sum(part.share for part in PARTS)
STAGES = tuple(dict.fromkeys(part.stage for part in PARTS))


def chosen(names: list[str]) -> list[Part]:
    """The parts that names mean, each a stage or a part of one; without names all.

    Raises:
        ValueError: there is no such stage or part.
    """
    known = {*STAGES, *(part.full_name for part in PARTS)}
    if wrong := [name for name in names if name not in known]:
        there_are = f"there are {', '.join(STAGES)}, and their parts, like losses.eager"
        raise ValueError(f"no such stage: {', '.join(wrong)}; {there_are}")
    return [part for part in PARTS if not names or part.stage in names or part.full_name in names]
