"""The command: its output, its files and its exit codes."""

import builtins
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import ScriptedEngine

from arc_airv.__main__ import main
from arc_airv.engines.adapters import find_adapters
from arc_airv.metrics import bootstrap_interval, score_outputs
from arc_airv.prompts import PlainTemplate, PromptFormat, make_encoder
from arc_airv.prompts.format import FORMAT_FILE
from arc_airv.records import COLUMNS, read_predictions
from arc_airv.storage import read_run
from arc_airv.submission import score_submission, validate_submission
from arc_airv.tasks import AVERAGES, hide_outputs, load_tasks, save_tasks

ROOT = Path(__file__).parents[2]
SMALL = ("6150a2bd", "3c9b0459", "25ff71a9")
N_OUTPUTS = 4


def make_scripted(model, *, ends_with=None, **options):
    """Answer the tasks of the file that is given as the model.

    The second call raises the exception of `builtins` that `ends_with` names.
    """

    class Ending(ScriptedEngine):
        def generate(self, prompts, sampling):
            if self.calls and ends_with:
                raise getattr(builtins, ends_with)("the engine died")
            return super().generate(prompts, sampling)

    if "form" in options:
        options["prompt_format"] = PromptFormat.from_dict(options.pop("form"))
    return Ending(load_tasks(model), **options)


SCRIPTED = f"{__name__}:make_scripted"


@pytest.fixture
def folder(tmp_path, monkeypatch, training_tasks):
    """Make a working folder with tasks.json, hidden.json, and other.json with another task."""
    tasks = {task_id: training_tasks[task_id] for task_id in SMALL}
    save_tasks({"007bbfb7": training_tasks["007bbfb7"]}, tmp_path / "other.json")
    save_tasks(tasks, tmp_path / "tasks.json")
    save_tasks(hide_outputs(tasks), tmp_path / "hidden.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("VLLM_LOGGING_STREAM", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")
    return tmp_path


@pytest.fixture
def run(folder, capsys):
    """Run the command; return its exit code, its stdout and its stderr."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def generate(run):
    """Run ``arc-airv generate`` with a scripted engine."""

    def generate(*arguments, model="tasks.json", **options):
        pairs = [f"{name}={value}" for name, value in options.items()]
        pairs = ["--option", *pairs] if pairs else []
        shared = ["--tasks", "tasks.json", "--engine", SCRIPTED, *arguments, *pairs]
        return run("generate", model, *shared)

    return generate


def only_line(text):
    (line,) = text.splitlines()
    return line


# Help and version ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["generate", "evaluate", "submit", "show"])
def test_help_fits_a_screen(run, command):
    code, out, _ = run(command, "--help")
    lines = out.splitlines()
    assert code == 0 and len(lines) <= 30 and max(map(len, lines)) <= 80
    assert command in run("--help")[1]


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from arc_airv.__main__ import main\n"
        "try: main(['generate', '--help'])\n"
        "except SystemExit: print('\\f', *sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(result.stdout.split("\f")[1].split())
    assert not loaded & {"numpy", "pandas", "matplotlib", "torch", "transformers", "vllm", "ray"}


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "arc_airv", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.startswith("arc_airv 0.")


# The format and the adapters ----------------------------------------------------------------------


def test_a_format_is_given_as_a_file_or_as_it_is(generate, folder):
    other = PromptFormat(make_encoder(["minimal"]), PlainTemplate(preamble="grids:"))
    other.save(folder)
    for i, given in enumerate([FORMAT_FILE, json.dumps(other.to_dict())]):
        code, _, errors = generate("--store", f"{i}.jsonl", "--format", given, form=other.to_dict())
        assert code == 0, errors
        settings = read_run(f"{i}.jsonl")["settings"]
        assert settings["prompt_format"] == other.to_dict()
    code, _, errors = generate("--format", "nothing.json")
    assert code == 2 and "neither a file nor JSON: 'nothing.json'" in errors


def test_adapters_answer_all_tasks_or_their_own(generate, folder):
    for name in ("all", "each/6150a2bd", "each/untrained"):
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text('{"r": 8}')
    for name in ("all", "each"):
        store = ("--store", f"{name}.jsonl", "--predictions", "1")
        code, _, errors = generate(*store, "--adapters", name)
        assert code == 0, errors
    assert find_adapters("all", SMALL) == dict.fromkeys(SMALL, Path("all"))
    own = {i: Path("each", i if i == "6150a2bd" else "untrained") for i in SMALL}
    assert find_adapters("each", SMALL) == own
    (folder / "each" / "untrained" / "adapter_config.json").unlink()
    code, _, errors = generate("--adapters", "each")
    assert code == 2 and "each is no adapter" in errors and "none for task 3c9b0459" in errors


# Mistakes and failures ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["generate", "model"],  # no --tasks
        ["generate", "model", "--tasks", "tasks.json", "--predictions", "0"],
        ["generate", "model", "--tasks", "tasks.json", "--minutes", "nan"],
        ["generate", "model", "--tasks", "tasks.json", "--option", "dtype"],
        ["evaluate", "p.jsonl", "--tasks", "tasks.json", "--average", "pixel"],
    ],
)
def test_wrong_arguments_end_with_2_and_the_usage(run, arguments):
    code, out, err = run(*arguments)
    assert code == 2 and not out
    assert err.startswith("usage: arc-airv") and "error: " in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("evaluate none.jsonl --tasks tasks.json", 2, "none.jsonl"),
        ("evaluate tasks.json --tasks tasks.json", 2, "tasks.json: line 1 lacks"),
        ("evaluate p.jsonl --tasks nowhere", 2, "nowhere is neither a file"),
        ("evaluate p.jsonl --tasks tasks.json --method best", 2, "'best'"),
        ("evaluate p.jsonl --tasks other.json", 2, "holds no prediction"),
        ("submit p.jsonl none.jsonl --tasks tasks.json", 2, "none.jsonl"),
        ("submit p.jsonl --tasks other.json", 2, "p.jsonl is for a task of other.json"),
        ("submit p.jsonl --tasks tasks.json --filter size", 2, "'size'"),
        ("submit p.jsonl --tasks tasks.json --into p.jsonl/a", 1, "Not a directory"),
        ("show p.jsonl --tasks tasks.json --metric speed", 2, "no metric 'speed'"),
        ("generate tasks.json --tasks tasks.json --samples 2", 2, "set a temperature"),
        ("generate tasks.json --tasks tasks.json --engine no", 2, "engine must be one of"),
        (
            "generate tasks.json --tasks tasks.json --engine no.such:engine",
            1,
            "No module named 'no'",
        ),
    ],
)
def test_an_error_is_one_line_without_a_traceback(run, generate, arguments, code, message):
    generate("--store", "p.jsonl", "--predictions", "2")
    ended, _, err = run(*arguments.split())
    assert ended == code
    assert only_line(err).startswith("arc-airv: error: ") and message in err


def test_debug_shows_the_traceback(run):
    with pytest.raises(FileNotFoundError, match="none.jsonl"):
        run("evaluate", "none.jsonl", "--tasks", "tasks.json", "--debug")


# Generate -----------------------------------------------------------------------------------------


def test_generate_fills_a_store_and_counts_the_statuses(generate):
    code, out, err = generate("--predictions", "4", "--store", "a.jsonl", garbage=0.5)
    assert (code, err) == (0, "")
    assert f"4 predictions of each of {N_OUTPUTS} test outputs, 3 tasks of tasks.json" in out
    assert f"done: {4 * N_OUTPUTS} of {4 * N_OUTPUTS} predictions are stored" in out
    predictions = read_predictions("a.jsonl")
    assert len(predictions) == 4 * N_OUTPUTS
    counted = {line.split()[0]: line.split()[1] for line in out.splitlines()[3:]}
    expected = predictions["status"].value_counts().astype(str).to_dict()
    assert counted == expected and len(expected) > 1


def test_generate_takes_the_first_tasks_and_goes_on(generate):
    generate("--predictions", "2", "--limit", "1")
    assert set(read_predictions("predictions.jsonl")["task_id"]) == {SMALL[0]}
    code, out, _ = generate("--predictions", "3")
    assert code == 0 and f"{3 * N_OUTPUTS - 2} of them new" in out


def test_options_of_the_engine_are_json_or_python_or_text(run):
    from arc_airv.__main__ import make_parser

    values = ["a=1", "b=true", "c=None", 'd={"x": [1]}', "e=('y',)", "f=half", "g==", "h="]
    args = make_parser().parse_args(["generate", "m", "--tasks", "t", "--option", *values])
    assert dict(args.option) == {
        "a": 1, "b": True, "c": None, "d": {"x": [1]}, "e": ("y",), "f": "half", "g": "=", "h": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("KeyboardInterrupt", 130, "interrupted: predictions.jsonl keeps what is finished"),
        ("RuntimeError", 1, "error: the engine died"),
    ],
)
def test_what_is_finished_is_kept_when_it_ends_early(generate, error, code, message):
    options = ("--predictions", "8", "--minutes", "1")  # the first call: a view of each output
    ended, _, err = generate(*options, ends_with=error)
    assert ended == code and only_line(err).startswith(f"arc-airv: {message}")
    kept = len(read_predictions("predictions.jsonl"))
    assert kept == N_OUTPUTS
    code, out, _ = generate(*options)
    assert code == 0 and f"{8 * N_OUTPUTS - kept} of them new" in out


def test_what_does_not_fit_is_a_status(generate):
    code, out, err = generate(max_model_len=5)
    assert (code, err) == (0, "")
    assert "prompt_too_long" in out and "The prompt does not fit" in out


def test_a_deadline_before_the_first_prediction_ends_with_1(generate):
    code, out, err = generate("--minutes", "1e-9")
    assert code == 1 and "deadline: 0 of" in out
    assert "before the first prediction" in only_line(err)


def test_progress_is_shown_where_a_terminal_is(run, generate, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    code, out, err = generate("--predictions", "2")
    assert code == 0 and "8/8" in err and "8/8" not in out
    code, out, err = run("show", "predictions.jsonl", "--tasks", "tasks.json")
    assert code == 0 and "3/3" in err and "3/3" not in out


# Evaluate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["task", "output", "all"])
def test_evaluate_prints_the_metrics(run, generate, average):
    generate("--predictions", "6", wrong=0.5, garbage=0.2)
    code, out, err = run(
        "evaluate", "predictions.jsonl", "--tasks", "tasks.json", "--average", average
    )
    assert (code, err) == (0, "")
    head, table = out.split("\n\n")
    assert "24 predictions by scripted for 4 test outputs, 6 each." in head
    assert "over 3 tasks with 4 test outputs" in head
    assert f"Each value is the {AVERAGES[average]}." in head
    scored = score_outputs(read_predictions("predictions.jsonl"), load_tasks("tasks.json"))
    expected = bootstrap_interval(scored, average=average)
    printed = {line.split()[0]: line.split()[1:5] for line in table.splitlines()[1:]}
    assert set(expected.index) < set(printed)  # and the agreement
    for metric, (value, low, high) in expected.iterrows():
        assert printed[metric] == [f"{value:.1%}", f"{low:.1%}", "–", f"{high:.1%}"], metric


def test_evaluate_says_that_solutions_are_hidden_or_takes_them_from_a_file(run, generate, folder):
    generate()
    code, out, _ = run("evaluate", "predictions.jsonl", "--tasks", "hidden.json")
    assert code == 0 and "hidden" in out and "accuracy" not in out and "agreement" in out
    solutions = {t: [p.output.tolist() for p in task.test]
                 for t, task in load_tasks("tasks.json").items()}  # fmt: skip
    (folder / "solutions.json").write_text(json.dumps(solutions))
    code, out, _ = run(
        "evaluate", "predictions.jsonl", "--tasks", "hidden.json", "--solutions", "solutions.json"
    )
    assert code == 0 and "hidden" not in out and "accuracy" in out


# Submit -------------------------------------------------------------------------------------------


def test_submit_writes_a_valid_file_and_prints_its_score(run, generate):
    generate("--predictions", "4", wrong=0.5)
    code, out, err = run("submit", "predictions.jsonl", "--tasks", "tasks.json")
    assert (code, err) == (0, "")
    tasks = load_tasks("tasks.json")
    validate_submission("submission.json", tasks)
    score = score_submission("submission.json", tasks, average="task")
    assert f"score {score:.1%}" in out and "by 16 predictions\n" in out
    run("submit", "predictions.jsonl", "--tasks", "hidden.json", "--into", "hidden.out")
    assert Path("hidden.out").read_text() == Path("submission.json").read_text()


def test_votes_of_several_runs_add_up_and_a_store_counts_once(run, generate):
    generate("--predictions", "2")
    generate("--predictions", "2", "--store", "other.jsonl")  # of the same settings
    _, out, _ = run("submit", "predictions.jsonl", "./predictions.jsonl", "--tasks", "tasks.json")
    assert "by 8 predictions\n" in out
    _, out, _ = run("submit", "predictions.jsonl", "other.jsonl", "--tasks", "tasks.json")
    assert "by 16 predictions\n" in out


def test_a_malformed_entry_costs_its_own_answers(run, generate, folder):
    generate("--predictions", "1")
    content = {**json.loads((folder / "tasks.json").read_text()), "bad": {"train": []}}
    (folder / "malformed.json").write_text(json.dumps(content))
    code, out, err = run("submit", "predictions.jsonl", "--tasks", "malformed.json")
    assert code == 0 and "4 of 5 outputs answered" in out
    assert only_line(err).startswith("arc-airv: warning: malformed.json: task bad")
    assert json.loads(Path("submission.json").read_text())["bad"][0]["attempt_1"] == [[0]]


def test_filters_are_those_that_are_named(run, generate, folder):
    task = load_tasks("tasks.json")[SMALL[0]]
    copied = "|".join("".join(map(str, row)) for row in task.test[0].input)
    record = {**dict.fromkeys(COLUMNS, 0), "task_id": SMALL[0], "text": None,
              "augmentation": "flip0.rot0.colors0123456789.order",
              "status": "ok", "cumulative_logprob": -1.0, "finish_reason": "stop",
              "prompt_hash": ""}  # fmt: skip
    rows = [
        {**record, "grid": grid, "sample_index": i} for i, grid in enumerate([copied] * 2 + ["1"])
    ]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for filters, first in ([], [[1]]), (["--filter", "none"], task.test[0].input.tolist()):
        run("submit", "c.jsonl", "--tasks", "tasks.json", *filters)
        answer = json.loads(Path("submission.json").read_text())[SMALL[0]][0]
        assert answer["attempt_1"] == first


# Show ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "arguments", "said"),
    [
        ("tasks.json", ["--metric", "pass_n", "--best-first"], "2 tasks, best pass_n first."),
        ("tasks.json", [], "2 tasks, worst correct_pixels first."),
        ("hidden.json", ["--method", "cells"], "2 tasks, worst agreement first."),
    ],
)
def test_show_writes_one_page(run, generate, tasks, arguments, said):
    generate("--predictions", "4", wrong=0.5)
    code, out, err = run(
        "show",
        "predictions.jsonl",
        "--tasks",
        tasks,
        "--n-tasks",
        2,
        "--into",
        "g.html",
        *arguments,
    )
    assert (code, err) == (0, "") and out == f"g.html: {said}\n"
    page = Path("g.html").read_text()
    assert page.count("<img ") == page.count("data:image/png;base64,") == 2
    assert "http:" not in page and "https:" not in page and said in page


def test_what_files_hold_is_no_markup_on_the_page(run, folder):
    hostile = "<img src=x onerror=alert(1)>"
    task = replace(load_tasks("tasks.json")[SMALL[0]], task_id=hostile)
    save_tasks({hostile: task}, folder / "hostile.json")
    record = {**dict.fromkeys(COLUMNS, 0), "task_id": hostile, "grid": "1",
              "augmentation": "flip0.rot0.colors0123456789.order",
              "status": "ok", "text": "<script>alert(2)</script>", "cumulative_logprob": -1.0,
              "finish_reason": "stop", "prompt_hash": ""}  # fmt: skip
    strange = {**record, "task_id": "<b>stranger</b>"}
    store = folder / "<i>p.jsonl"
    store.write_text(json.dumps(record) + "\n" + json.dumps(strange) + "\n")
    settings = {"model": "<script>alert(3)</script>"}
    (folder / "<i>p.run.json").write_text(json.dumps({"settings": settings}))
    assert run("show", store, "--tasks", "hostile.json")[0] == 0
    page = Path("gallery.html").read_text()
    for markup in ("<script", "<img src=x", "<b>", "<i>"):
        assert markup not in page
    assert "&lt;img src=x" in page and "&lt;script&gt;alert(3)" in page
