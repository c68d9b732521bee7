"""What is written in several places about the project itself is the same in all of them."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# Python 3.10 has none; pytest brings one to it.
tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CI = ROOT / ".github" / "workflows" / "ci.yml"
MORE_PERMISSIONS = {
    "release.yml": {"publish": {"id-token": "write"}, "attach": {"contents": "write"}},
    "site.yml": {"publish": {"pages": "write", "id-token": "write"}},
}
PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs(path):
    return read(path)["jobs"]


def steps(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def matrix():
    """Pythons and torches that all tests run with."""
    return jobs(CI)["test"]["strategy"]["matrix"]["include"]


def requirements(extra=None):
    """By name; of several for one package, that for any Python."""
    texts = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    found = sorted(map(Requirement, texts), key=lambda requirement: requirement.marker is None)
    return {requirement.name: requirement for requirement in found}


def oldest(specifiers):
    return min(Version(specifier.version) for specifier in specifiers if specifier.operator == ">=")


def test_every_python_of_the_workflows_is_allowed_and_the_oldest_is_tested():
    allowed = SpecifierSet(PROJECT["requires-python"])
    found = re.findall(r'(?:python|python-version): "([\d.]+)"', "".join(path.read_text() for path in WORKFLOWS))
    assert found
    assert all(allowed.contains(version) for version in found)
    assert min(Version(entry["python"]) for entry in matrix()) == oldest(allowed)


def test_the_oldest_torch_is_tested_and_the_newest():
    torches = [entry["torch"] for entry in matrix()]
    assert f"torch=={oldest(requirements()['torch'].specifier)}.0" in torches
    assert "torch" in torches


def test_the_oldest_and_newest_of_everything_are_tested_for_each_python():
    job = jobs(CI)["versions"]
    pythons = [Version(version) for version in job["strategy"]["matrix"]["python"]]
    assert pythons == [Version(f"3.{minor}") for minor in range(pythons[0].minor, pythons[-1].minor + 1)]
    assert pythons[0] == oldest(SpecifierSet(PROJECT["requires-python"]))
    assert job["strategy"]["matrix"]["resolution"] == ["lowest-direct", "highest"]
    assert 'python3 tests/versions.py "$PYTHON" "$RESOLUTION"' in steps(job)


def test_the_workflow_runs_the_readmes_test_command():
    (command,) = re.findall(r"^ {4}(.*-m pytest)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert any((entry["torch"], entry["extra"]) == ("torch==2.13.0", "dev") for entry in matrix())
    runs = steps(jobs(CI)["test"])
    assert command in [run.replace("$TORCH", "torch==2.13.0").replace("$EXTRA", "dev") for run in runs]


def test_the_workflow_tests_the_frameworks_that_the_table_names():
    job = jobs(CI)["frameworks"]
    given = [step["with"] for step in job["steps"] if "repository" in step.get("with", {})]
    source = (ROOT / "tests" / "frameworks" / "test_frameworks.py").read_text(encoding="utf-8")
    assert {Path(step["path"]).name: step["ref"] for step in given} == dict(
        re.findall(r'^    "([\w-]+)": "([0-9a-f]{40})",$', source, re.MULTILINE)
    )
    assert given
    assert any(run.endswith("pytest -m frameworks") for run in steps(job))


def test_the_workflow_checks_what_decides_here():
    decides = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    runs = [run.removeprefix(".venv/bin/") for job in jobs(CI).values() for run in steps(job)]
    for check in ("ruff check .", "ruff format --check .", "mypy", "python tests/hub/oldest.py"):
        assert re.search(rf"^{re.escape(check)}$", decides, re.MULTILINE)
        assert check in runs


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_do_little_and_name_what_they_use(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    asked = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert asked == MORE_PERMISSIONS.get(path.name, {})
    for line in path.read_text(encoding="utf-8").splitlines():
        assert "uses:" not in line or PINNED.search(line), line
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job, name
        for step in job["steps"]:
            # Text of others is data for a shell, never part of its command.
            assert "${{" not in step.get("run", ""), step


def test_what_is_published_was_built_once_and_used():
    work = jobs(ROOT / ".github" / "workflows" / "release.yml")
    assert [name for name, job in work.items() if any("-m build" in run for run in steps(job))] == ["build"]
    assert (work["publish"]["needs"], work["installed"]["needs"]) == ("installed", "build")
    assert any("tests/use_installed.py" in run for run in steps(work["installed"]))
    assert work["publish"]["steps"][-1]["with"]["attestations"] is True


def test_what_makes_a_release_has_known_hashes():
    work = jobs(ROOT / ".github" / "workflows" / "release.yml")
    installs = [run for job in work.values() for run in steps(job) if "pip" in run]
    assert installs
    assert all("--require-hashes" in run or run.endswith(" install dist/*.whl") for run in installs)
    assert any("-m build --no-isolation" in run for run in steps(work["build"]))  # with the hatchling that was checked
    for path in sorted((ROOT / ".github" / "requirements").glob("*.txt")):
        lines = path.read_text(encoding="utf-8").splitlines()
        named = [line for line in lines if re.match(r"[\w.-]+==", line)]
        assert named
        assert all(line.endswith("\\") for line in named), "a hash follows"
        wanted = {Requirement(line).name for line in path.with_suffix(".in").read_text().splitlines() if line[0] != "#"}
        assert wanted <= {line.partition("==")[0] for line in named}


def test_a_list_of_what_was_installed_is_attached_to_a_release():
    work = jobs(ROOT / ".github" / "workflows" / "release.yml")
    assert any(run.startswith("cyclonedx-py environment used") for run in steps(work["installed"]))
    assert work["attach"]["needs"] == "publish"
    assert any("gh release create" in run for run in steps(work["attach"]))


def test_an_audit_without_an_answer_fails():
    audits = [run for run in steps(jobs(ROOT / ".github" / "workflows" / "audit.yml")["audit"]) if "pip-audit " in run]
    assert audits
    assert all("--strict" in run for run in audits)


def test_hooks_are_of_the_versions_that_decide():
    pinned = {name: str(requirement) for name, requirement in requirements("dev").items()}
    hooks = {hook["id"]: hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}
    assert set(hooks) == {"ruff", "ruff-format", "mypy"}
    assert (
        hooks["ruff"]["additional_dependencies"] == hooks["ruff-format"]["additional_dependencies"] == [pinned["ruff"]]
    )
    # The environment's own: the extra dev pins it.
    assert hooks["mypy"]["language"] == "system"
    assert pinned["mypy"].startswith("mypy==")


def test_issue_forms_ask_something():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert forms
    for form in map(read, forms):
        assert form["name"]
        assert form["description"]
        assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_the_packages_use_outside_of_a_checkout_fails_inside_one():
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "use_installed.py"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "this is a checkout" in done.stderr


def test_addresses_are_of_one_repository():
    urls = PROJECT["urls"]
    here = urls["Repository"]
    assert all(url.startswith(here) for name, url in urls.items() if name != "Paper")


def test_the_readmes_addresses_on_a_package_index_are_of_the_repository():
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["metadata"]["hooks"]
    substitutions = hook["fancy-pypi-readme"]["substitutions"]
    assert substitutions
    for rule in substitutions:
        assert re.findall(r"https://[^/]+/[^/]+/[^/]+", rule["replacement"]) == [PROJECT["urls"]["Repository"]]


def test_the_workflow_of_the_site_builds_it_and_tests_it_before_it_is_published():
    work = jobs(ROOT / ".github" / "workflows" / "site.yml")
    runs = steps(work["site"])
    assert any("website/build.py" in run for run in runs)
    assert any('-m "browser or notebook"' in run for run in runs)
    assert work["publish"]["needs"] == "site"


def test_what_contributing_tells_to_change_is_there():
    """Each place: a file, and the names in it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = re.findall(r"^- `([\w/]+\.py)`: (.*)$", text, re.MULTILINE)
    assert len(places) >= 5
    for file, what in places:
        content = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", what):
            assert re.search(rf"\b{name}\b", content), f"CONTRIBUTING.md tells to change {name} in {file}"


def test_an_addition_touches_at_most_four_places():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## How to add")[2].partition("\n## ")[0]
    for recipe in re.split(r"^\*\*", text, flags=re.MULTILINE)[1:]:
        assert len(re.findall(r"^- ", recipe, re.MULTILINE)) <= 4, recipe
