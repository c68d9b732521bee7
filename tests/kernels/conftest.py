"""How kernel tests run.

Tests marked ``interpreter`` need Triton's interpreter, which is chosen by the environment when Triton is first imported
and would change every later test. So they run together in a child process, and here each reports its own result. To
debug one, run it there directly: ``TRITON_INTERPRET=1 python -m pytest tests/kernels -k NAME``.
"""

import dataclasses
import json
import os
import subprocess
import sys

import known_triton
import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
RESULTS = "TASK_LOSSES_KERNEL_RESULTS"  # where a child process leaves its results

if INTERPRETED and known_triton.unknown() is None:
    import strict_interpreter

    strict_interpreter.install()


@pytest.fixture(
    params=[
        pytest.param("cpu", id="interpreter", marks=pytest.mark.interpreter),
        pytest.param("cuda", id="cuda", marks=pytest.mark.gpu),
    ]
)
def device(request):
    """Where kernels run: interpreted on the CPU by default, on a real device with ``-m gpu``."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def unwritten_is_nan():
    """Fills new memory with NaN, so that an element which a kernel forgets shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.fixture
def without_overflow_checks(monkeypatch):
    """Triton's interpreter repeats all its 32-bit arithmetic in 64 bits: a quarter of the time, and sizes are small."""
    if INTERPRETED:
        from triton.runtime import interpreter

        builder = interpreter.interpreter_builder
        monkeypatch.setattr(builder, "options", dataclasses.replace(builder.options, sanitize_overflow=False))


def pytest_runtest_setup(item):
    if item.get_closest_marker("interpreter") is not None and (reason := known_triton.unknown()):
        pytest.skip(reason)


def pytest_pyfunc_call(pyfuncitem):
    """Reports what the child process found, for tests that are not to run here."""
    if INTERPRETED or pyfuncitem.get_closest_marker("interpreter") is None:
        return None
    config = pyfuncitem.config
    results = config.stash.get(_RESULTS, None)
    if results is None:
        items = [item for item in pyfuncitem.session.items if item.get_closest_marker("interpreter")]
        results = config.stash[_RESULTS] = _run_interpreted(config, [item.nodeid for item in items])
    outcome, text = results.get(pyfuncitem.nodeid, ("failed", results["end"][1]))
    if outcome == "skipped":
        pytest.skip(text)
    if outcome == "failed":
        pytest.fail(text, pytrace=False)
    return True


_RESULTS = pytest.StashKey[dict]()


def _run_interpreted(config, names):
    """Runs tests in a child process with the interpreter.

    Returns:
        By test the outcome and its text, and under "end" the child's exit status and output.
    """
    path = config.rootpath / ".pytest_cache" / f"interpreted-{os.getpid()}.json"
    path.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "interpreter", "-p", "no:cacheprovider", *names]
    environment = os.environ | {"TRITON_INTERPRET": "1", RESULTS: str(path)}
    child = subprocess.run(command, cwd=config.rootpath, env=environment, capture_output=True, text=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    path.unlink(missing_ok=True)
    output = f"{child.stdout}\n{child.stderr}"
    return results | {
        "end": (str(child.returncode), f"the interpreter's process ended with {child.returncode}:\n{output}")
    }


_outcomes = {}


def pytest_runtest_logreport(report):
    """In the child process: keeps the result of a test, the worst of its phases."""
    if RESULTS not in os.environ or (report.when != "call" and report.passed):
        return
    text = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else report.longreprtext
    _outcomes[report.nodeid] = (report.outcome, text)


def pytest_sessionfinish():
    if RESULTS in os.environ:
        with open(os.environ[RESULTS], "w") as file:
            json.dump(_outcomes, file)
