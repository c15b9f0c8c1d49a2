"""The package as a user installs it: light to import, a pure wheel, no network."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The Python of an environment that holds the requirements, and then the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    executable = folder / "env" / "bin" / "python"
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    # numpy, pandas and matplotlib are there already, as on a Kaggle image: lent from here.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib"))
    install = [str(executable), "-m", "pip", "install", "--no-index", str(wheel)]
    subprocess.run([*install, "--force-reinstall", "--no-deps"], check=True, capture_output=True)
    subprocess.run(install, check=True, capture_output=True)  # its requirements are satisfied
    return str(executable)


def test_the_wheel_installs_without_an_index_and_imports_fast(installed):
    code = (
        "import time; start = time.perf_counter(); import arc_airv; "
        "print(time.perf_counter() - start, arc_airv.__file__)"
    )
    seconds, path = subprocess.run(
        [installed, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    ).stdout.split()
    assert str(ROOT) + os.sep != path[: len(str(ROOT)) + 1]
    assert float(seconds) < 0.5


def test_the_wheel_holds_the_engines(installed):
    code = "import arc_airv.engines, json; print(json.dumps(arc_airv.engines.__all__))"
    names = json.loads(
        subprocess.run(
            [installed, "-c", code], capture_output=True, text=True, check=True, cwd="/"
        ).stdout
    )
    assert "VllmEngine" in names
