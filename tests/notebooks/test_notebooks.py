"""The notebooks run from top to bottom; 03 in a kernel and with real vLLM in `test_rehearsal`."""

import gzip
import json
import sys
import time
from pathlib import Path

import pytest

from arc_airv.records import read_predictions
from arc_airv.submission import validate_submission
from arc_airv.tasks import hide_outputs, load_tasks, read_challenges, save_tasks

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
MODEL = str(ROOT / "res" / "tiny")
SMALL = ("6150a2bd", "3c9b0459", "d511f180", "0d3d703e")  # short prompts

sys.path.insert(0, str(ROOT / "notebooks"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    tasks = load_tasks("arc-agi-1/training")
    tasks = {task_id: tasks[task_id] for task_id in SMALL}
    save_tasks(tasks, folder / "tasks.json")
    save_tasks(hide_outputs(tasks), folder / "hidden.json")
    return folder


@pytest.fixture
def run(folder):
    """Run a notebook with these parameters; gives its page."""
    from run_notebook import run_notebook

    def run(name, **parameters):
        (path,) = (ROOT / "notebooks").rglob(f"{name}.ipynb")
        return run_notebook(path, folder / "html", **parameters)

    return run


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_clean(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert notebook["cells"][0]["cell_type"] == "markdown"
    assert "".join(notebook["cells"][0]["source"]).startswith("# ")


def test_01_generates_predictions(run, folder):
    run(
        "01_generate_predictions",
        MODEL=MODEL,
        TASKS=str(folder / "tasks.json"),
        N_PREDICTIONS=3,
        STORE=str(folder / "predictions.jsonl"),
        ENGINE="transformers",
    )
    assert len(read_predictions(folder / "predictions.jsonl")) == 3 * len(SMALL)


def test_02_shows_them(run, folder):
    page = run(
        "02_visualize_predictions",
        PREDICTIONS=str(folder / "predictions.jsonl"),
        TASKS=str(folder / "tasks.json"),
        N_TASKS=2,
    )
    assert page.read_text().count("data:image/png") >= 4


# In a kernel and with real engines, notebook 03 is played by test_rehearsal.


@pytest.fixture
def run_03(folder, monkeypatch):
    """Run the cells of notebook 03 in this process, which knows the scripted engine."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("arc_airv.kaggle.clock.process_start", time.time)

    def run_03(**parameters):
        (path,) = (ROOT / "notebooks").glob("03_*.ipynb")
        names = {}
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names |= {"MODEL": "tasks.json", "ENGINE": "faulty:FaultyEngine", **parameters}

    return run_03


def test_03_spends_its_minutes_whatever_the_challenges_file_holds(run_03, folder, capsys):
    content = json.loads((folder / "hidden.json").read_text())
    (folder / "malformed.json").write_text(json.dumps({"empty": {}, **content, "none": None}))
    start = time.time()
    run_03(TASKS="malformed.json", ENGINE_OPTIONS={"n_views": 512, "delay": 0.02}, MINUTES=0.1)
    assert 4 < time.time() - start < 8
    challenges = read_challenges("malformed.json")
    submission = validate_submission("submission.json", challenges.all)
    assert list(submission) == ["empty", *SMALL, "none"]
    said = capsys.readouterr().out
    assert "stopped at the deadline" in said and "is valid; 4 of 6 outputs answered" in said
    assert said.endswith("2 things went wrong (marked !)\n")  # the two entries


def test_03_ends_well_without_any_engine_and_with_a_vote_that_fails(run_03, capsys):
    options = {"ENGINE_OPTIONS": {"fault": "start"}, "METHOD": "no such method"}
    run_03(TASKS="hidden.json", STORE="none.jsonl", SUBMISSION="none.json", **options)
    validate_submission("none.json", load_tasks("hidden.json"))
    said = capsys.readouterr().out
    assert "no configuration is left to try" in said and "! vote: ValueError: method" in said
    assert said.endswith("4 things went wrong (marked !)\n")


def test_an_unknown_parameter_is_refused(run):
    with pytest.raises(ValueError, match="no parameter .*'N_TASK'"):
        run("01_generate_predictions", N_TASK=1)


@pytest.mark.parametrize("mode", ["per_task", "joint"])
def test_06_fine_tunes_on_hidden_tasks(run, folder, mode):
    pytest.importorskip("peft")
    run(
        "06_finetune",
        MODEL=MODEL,
        TASKS=str(folder / "hidden.json"),
        MODE=mode,
        MINUTES=0.1,
        FOLDER=str(folder / mode),
        N_PREDICTIONS=2,
        STORE=str(folder / f"{mode}.jsonl"),
        ENGINE="transformers",
    )
    assert len(read_predictions(folder / f"{mode}.jsonl")) == 2 * len(SMALL)


def test_05_compares_selectors_and_runs_from_stored_files_alone(run, folder):
    description = json.loads((folder / "predictions.run.json").read_text())
    runs = folder / "runs"
    runs.mkdir()
    for name, changed in {"t0.00": {}, "geometry": {"colors": False}}.items():
        with gzip.open(runs / f"{name}.jsonl.gz", "wb") as file:
            file.write((folder / "predictions.jsonl").read_bytes())
        description["settings"]["plan"].update(changed)
        (runs / f"{name}.run.json").write_text(json.dumps(description))
    page = run(
        "05_selection_study",
        PREDICTIONS=str(folder / "predictions.jsonl"),
        SCORES=None,
        N_FOLDS=0,
        TASKS=str(folder / "tasks.json"),
        FIGURES=str(folder / "figures"),
        RUNS=str(runs),
    )
    assert page.read_text().count("data:image/png") >= 7
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn == {
        *("curves", "gains", "ranks_and_calibration", "output_sizes"),
        *("temperature", "augmentation", "costs"),
    }


def test_04_searches_with_beams(run, folder):
    page = run(
        "04_beam_search",
        TEXT_MODEL=None,
        MODEL=MODEL,
        TASKS=str(folder / "tasks.json"),
        N_TASKS=2,
        WIDTHS=[1, 2],
        N_PREDICTIONS=2,
        STORES=str(folder / "beams"),
        ENGINE="transformers",
    )
    assert "data:image/png" in page.read_text()
    assert len(read_predictions(folder / "beams" / "width2.jsonl")) == 4
