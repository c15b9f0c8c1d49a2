"""The notebooks run from top to bottom; `test_rehearsal` runs 03 in a kernel with real vLLM."""

import gzip
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from arc_airv.metrics import describe_outputs, sort_tasks
from arc_airv.records import read_predictions
from arc_airv.submission import validate_submission
from arc_airv.tasks import hide_outputs, load_tasks, read_challenges, save_tasks

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
MODEL = str(ROOT / "tests" / "tiny")
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
    """Run a notebook with these parameters; return its page."""
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


def outputs_of(page):
    """Return the text and the kinds of all outputs of an executed notebook, in order."""
    cells = json.loads(page.with_suffix(".ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    data = [output.get("data", {"stream": output.get("text", "")}) for output in outputs]
    texts = [item.get("text/html") or item.get("text/plain") or item.get("stream") for item in data]
    return "\n".join("".join(text) for text in texts), [set(item) for item in data]


def test_01_generates_predictions(run, folder, capfd):
    page = run(
        "01_generate_predictions",
        MODEL=MODEL,
        TASKS=str(folder / "tasks.json"),
        N_PREDICTIONS=3,
        STORE=str(folder / "predictions.jsonl"),
        ENGINE="transformers",
    )
    assert len(read_predictions(folder / "predictions.jsonl")) == 3 * len(SMALL)
    text, _ = outputs_of(page)
    assert "The reply holds a grid." in text
    printed, errors = capfd.readouterr()
    assert [line.split(" s  ")[1] for line in printed.splitlines() if "..." not in line] == [
        "1. Generate predictions",
        "The tasks",
        "The engine",
        "One question first",
        "All prompts in one batch",
    ]
    assert not errors


def test_01_shows_the_question_and_the_reply_of_a_model_without_a_format(run, folder, random_model):
    model = folder / "no format"
    shutil.copytree(random_model, model)
    (model / "prompt_format.json").unlink()
    page = run(
        "01_generate_predictions",
        MODEL=str(model),
        TASKS=str(folder / "tasks.json"),
        N_TASKS=1,
        N_PREDICTIONS=1,
        STORE=str(folder / "unformatted.jsonl"),
        ENGINE="transformers",
    )
    (reply,) = read_predictions(folder / "unformatted.jsonl").itertuples()
    text, _ = outputs_of(page)
    assert "<in>" in text and reply.text in text and f"status: {reply.status};" in text


def test_02_shows_them_sorted_by_a_metric_before_all_else(run, folder):
    page = run(
        "02_visualize_predictions",
        PREDICTIONS=str(folder / "predictions.jsonl"),
        TASKS=str(folder / "tasks.json"),
        METRIC="accuracy",
        WORST_FIRST=False,
        N_TASKS=2,
        PAGE=str(folder / "pool.html"),
    )
    text, kinds = outputs_of(page)
    assert "<iframe sandbox" in text and "2 tasks, best accuracy first:" in text
    assert "Content-Security-Policy" in (folder / "pool.html").read_text("utf-8")
    outputs = describe_outputs(
        read_predictions(folder / "predictions.jsonl"), load_tasks(folder / "tasks.json")
    )
    best = sort_tasks(outputs, "accuracy", worst_first=False).index[:2]
    assert re.findall("<h3>(.*?)</h3>", text) == list(best)
    pictures = [i for i, kind in enumerate(kinds) if "image/png" in kind]
    assert pictures[:2] == [4, 6] and len(pictures) == 2 + 4  # after the page, each with a caption
    assert text.index("<h3>") < text.index("voting_accuracy") and "nan%" not in text


def test_02_shows_predictions_of_hidden_tasks(run, folder):
    page = run(
        "02_visualize_predictions",
        PREDICTIONS=str(folder / "predictions.jsonl"),
        TASKS=str(folder / "hidden.json"),
        METHOD="cells",
        PAGE=str(folder / "hidden.html"),
    )
    text, kinds = outputs_of(page)
    assert "worst agreement first" in text and "Solutions are hidden" in text
    assert sum("image/png" in kind for kind in kinds) == len(SMALL) + 1
    assert "accuracy" not in text


def test_02_reads_like_a_page():
    notebook = json.loads((ROOT / "notebooks" / "02_visualize_predictions.ipynb").read_text())
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert sum(len(source) for source in code) <= 80


def test_a_failure_names_the_log_and_shows_its_end(run, folder):
    with pytest.raises(CellExecutionError) as error:
        run("02_visualize_predictions", PREDICTIONS=str(folder / "nothing.jsonl"))
    (note,) = error.value.__notes__
    log = folder / "html" / "02_visualize_predictions.log"
    assert note.startswith(f"{log} ends:") and log.exists()


def test_the_demo_prints_its_own_lines_alone(folder):
    command = [sys.executable, "notebooks/demo.py", "--into", str(folder / "demo")]
    small = ["--engine", "transformers", "--tasks", "2", "--predictions", "2", "--longest", "400"]
    result = subprocess.run([*command, *small], capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert all(re.match(r" +\d+ s  ", line) for line in lines[: lines.index("")] if line[:1] == " ")
    assert "2 ARC-AGI-1 tasks, 2 views of each, res/small" in lines
    assert sum(line.startswith("score of ") for line in lines) == 1


# test_rehearsal plays notebook 03 in a kernel and with real engines.


@pytest.fixture
def run_03(folder, monkeypatch):
    """Run the cells of notebook 03 in this process, which can load the scripted engine."""
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


def test_a_long_cell_shows_what_it_last_printed(tmp_path, monkeypatch, capsys):
    import run_notebook

    monkeypatch.setattr(run_notebook, "HEARTBEAT", 0.3)
    new = nbformat.v4
    parameters = new.new_code_cell("N = 1", metadata={"tags": ["parameters"]})
    slow = "import time\nprint('started')\nprint('  5%\\r 50%', flush=True)\ntime.sleep(1.5)"
    cells = [new.new_markdown_cell("# A long one"), parameters, new.new_code_cell(slow)]
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "long.ipynb")
    run_notebook.run_notebook(tmp_path / "long.ipynb", tmp_path / "html")
    assert "s  ... A long one:  50%\n" in capsys.readouterr().out


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
    for name, changed in {"t0.00": {}, "<img src=x>": {}, "geometry": {"colors": False}}.items():
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
        OTHER=str(folder / "predictions.jsonl"),
    )
    text = page.read_text()
    assert "&lt;img src=x&gt;" in text and "<img src=x>" not in text  # a name is no HTML
    assert text.count("data:image/png") >= 7 and "with the other's, weight 0.5" in text
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn == {
        *("curves", "gains", "ranks_and_calibration", "output_sizes"),
        *("temperature", "augmentation"),
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
