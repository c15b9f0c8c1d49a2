"""The package as a user installs it: light to import, a pure wheel, no network."""

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from arc_airv.augment import Augmentation
from arc_airv.grids import format_grid
from arc_airv.records import Prediction, RecordStore
from arc_airv.tasks import save_tasks

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "vllm", "transformers", "matplotlib", "ray")
ANALYSIS = (
    "records vote metrics plots submission tasks augment prompts infer kaggle studies".split()
)


def python(code, executable=sys.executable):
    result = subprocess.run([executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_loads_nothing_heavy():
    loaded = python("import sys, arc_airv; print(' '.join(sys.modules))").split()
    assert not set(HEAVY) & set(loaded)


def test_analysis_needs_no_torch():
    imports = "; ".join(f"import arc_airv.{name}" for name in ANALYSIS)
    loaded = python(f"import sys; {imports}; print(' '.join(sys.modules))").split()
    assert not {"torch", "vllm", "transformers", "ray"} & set(loaded)


def test_analysis_needs_no_file_locks(tmp_path):
    store = tmp_path / "p.jsonl"
    code = (
        "import sys; sys.modules['fcntl'] = None\n"  # as on Windows
        "import arc_airv.metrics, arc_airv.vote, arc_airv.plots, arc_airv.submission\n"
        "from arc_airv.records import RecordStore, read_predictions\n"
        f"open({str(store)!r}, 'w').close(); print(len(read_predictions({str(store)!r})))\n"
        f"try: RecordStore({str(store)!r})\n"
        "except RuntimeError as error: print('locked' in str(error))"
    )
    assert python(code).split() == ["0", "True"]


def test_importing_the_engines_loads_none_of_what_they_run_on():
    loaded = python("import sys, arc_airv.engines; print(' '.join(sys.modules))").split()
    assert not set(HEAVY) & set(loaded)


def test_every_public_function_and_class_has_a_docstring():
    import ast

    for path in sorted((ROOT / "arc_airv").rglob("*.py")):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
            assert not public or ast.get_docstring(node), f"{path}: {node.name}"


def requirements_of(*names):
    """Return the installed distributions of these names and of all their requirements."""
    found = {}
    todo = list(names)
    while todo:
        name = re.sub("[-_.]+", "-", todo.pop()).lower()
        if name not in found:
            found[name] = metadata.distribution(name)
            parsed = map(Requirement, found[name].requires or [])
            todo += [r.name for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return list(found.values())


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Make an environment with only numpy, pandas, matplotlib and the wheel; return its bin."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # an earlier build may have left files in the tree
    shutil.copytree(ROOT / "arc_airv", source / "arc_airv")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    for distribution in requirements_of("numpy", "pandas", "matplotlib"):  # borrowed from here
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            (site / name).symlink_to(distribution.locate_file(name))
    programs = folder / "env" / "bin"
    run_installed(programs / "python", "-m", "pip", "install", "--no-index", wheel)
    return programs


def run_installed(*command, cwd="/"):
    """Return the output of a command that finds only the installed arc_airv."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_installs_without_an_index_and_imports_fast(installed):
    code = (
        "import time; start = time.perf_counter(); import arc_airv; "
        "print(time.perf_counter() - start, arc_airv.__file__)"
    )
    seconds, path = run_installed(installed / "python", "-c", code).split()
    assert Path(path).is_relative_to(installed.parent)
    assert float(seconds) < 0.5


def test_the_wheel_holds_the_engines(installed):
    code = "import arc_airv.engines; print(*arc_airv.engines.__all__)"
    assert "VllmEngine" in run_installed(installed / "python", "-c", code).split()


def test_the_wheel_brings_the_command(installed, tmp_path, training_tasks):
    """Evaluate, show and submit with only numpy, pandas and matplotlib installed."""
    task = training_tasks["25ff71a9"]
    save_tasks({"25ff71a9": task}, tmp_path / "tasks.json")
    with RecordStore(tmp_path / "p.jsonl", {"task_ids": ["25ff71a9"]}) as store:
        grids = [format_grid(pair.output) for pair in task.test]
        key = str(Augmentation())
        store.append(
            Prediction("25ff71a9", i, key, 0, grid, "ok", grid, -1.0, 5, 5, "stop", "0")
            for i, grid in enumerate(grids)
        )
    command, data = installed / "arc-airv", ["--tasks", "tasks.json"]
    assert "evaluate" in run_installed(command, "--help")
    table = run_installed(command, "evaluate", "p.jsonl", *data, cwd=tmp_path)
    assert re.search(r"^vote_1 +100.0%", table, re.MULTILINE)
    run_installed(command, "show", "p.jsonl", *data, "--into", "g.html", cwd=tmp_path)
    assert "Content-Security-Policy" in (tmp_path / "g.html").read_text("utf-8")
    score = run_installed(command, "submit", "p.jsonl", *data, cwd=tmp_path)
    assert "score 100.0%" in score


def test_no_name_of_a_room_is_that_of_a_module_in_it():
    """Otherwise `from arc_airv.room import name` returns whichever was loaded last."""
    for room in ("prompts", "engines", "infer", "vote", "metrics", "plots", "kaggle", "training",
                 "studies"):  # fmt: skip
        module = importlib.import_module(f"arc_airv.{room}")
        assert not {m.name for m in pkgutil.iter_modules(module.__path__)} & set(module.__all__)


def named_in(path):
    """Return the dotted names of this package in a file."""
    return set(re.findall(r"\barc_airv(?:\.[A-Za-z_]\w*)+", path.read_text()))


def test_what_the_pages_and_docstrings_name_is_there():
    texts = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/**/*.ipynb")]
    texts += [*ROOT.glob("arc_airv/**/*.py"), *ROOT.glob("res/**/*.md"), *ROOT.glob("kaggle/*.md")]
    for name in sorted(set().union(*map(named_in, texts))):
        found, rest = pkgutil.resolve_name("arc_airv"), name.split(".")[1:]
        for i, part in enumerate(rest, start=2):
            try:
                found = importlib.import_module(".".join(name.split(".")[:i]))
            except ImportError:
                found = getattr(found, part, None)
                assert found is not None, name
