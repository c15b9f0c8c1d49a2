"""Everything to push to Kaggle: metadata, notebooks, the lock, and the resolver check."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

from arc_airv.submission import validate_submission
from arc_airv.tasks import hide_outputs, load_tasks, save_tasks

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "kaggle"))

import prepare  # noqa: E402
import wheelhouse  # noqa: E402

KERNEL_KEYS = {
    *("id", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu"),
    *("enable_tpu", "enable_internet", "docker_image_pinning_type", "competition_sources"),
    *("dataset_sources", "kernel_sources", "model_sources"),
}
OFFLINE = ("generate", "visualize", "submission")


# The resolver check, on a small invented case ----------------------------------------------------


def image(**options):
    packages = {"torch": "2.10.0+cu128", "numpy": "2.0.2", "lark": "1.3.1"}
    values = {"python": "3.12", "glibc": "2.35", "uploaded_before": "2026-01-01"}
    values |= {"vllm": "1.0", "reported": {}}
    values |= {"keep": ("torch", "numpy"), "packages": packages} | options
    return wheelhouse.Image("small", **values)


def wheel(name, version, *requires, tag="py3-none-any", requires_python=None):
    filename = f"{name.replace('-', '_')}-{version}-{tag}.whl"
    return wheelhouse.Wheel(name, version, filename, "", requires, requires_python, ())


def check(folder, *wheels, requires=None, **options):
    for each in wheels:
        wheelhouse.write_stand_in(each, folder)
    chosen = wheelhouse.check_installs(folder, ["vllm"], image(**options), requires)
    return {each.name: each.version for each in chosen}


def test_a_set_that_fits_the_image_installs_and_leaves_torch_alone(tmp_path):
    chosen = check(
        tmp_path,
        wheel("vllm", "1.0", "torch==2.10.0", "numpy", "lark==1.2.2", "kernels>=2"),
        wheel("kernels", "2.1", tag="cp38-abi3-manylinux_2_31_x86_64"),
        wheel("lark", "1.2.2"),
    )
    assert chosen == {"vllm": "1.0", "kernels": "2.1", "lark": "1.2.2"}


def test_requirements_are_those_of_the_images_python(tmp_path):
    chosen = check(
        tmp_path,
        wheel("vllm", "1.0", 'new; python_version > "3.11"', 'old; python_version < "3.12"'),
        wheel("new", "1.0", tag="cp312-cp312-manylinux_2_17_x86_64", requires_python=">=3.12"),
    )
    assert chosen == {"vllm": "1.0", "new": "1.0"}


def test_a_set_that_would_replace_torch_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"replace torch 2\.10\.0\+cu128 of small by 2\.11\.0"):
        check(tmp_path, wheel("vllm", "1.0", "torch==2.11.0"), wheel("torch", "2.11.0"))


@pytest.mark.parametrize(
    "wheels",
    [
        [wheel("vllm", "1.0", "torch==2.11.0")],
        [wheel("vllm", "1.0", "kernels")],
        [wheel("vllm", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64")],
        [wheel("vllm", "1.0", tag="cp312-cp312-manylinux_2_39_x86_64")],
        [wheel("vllm", "1.0", requires_python=">=3.13")],
    ],
    ids=["torch", "missing", "python", "glibc", "requires_python"],
)
def test_a_set_that_does_not_install_is_refused_in_pips_words(tmp_path, wheels):
    with pytest.raises(ValueError, match="no way to install vllm on small:\nERROR: "):
        check(tmp_path, *wheels)


def test_nothing_but_the_folder_counts(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheelhouse.write_stand_in(wheel("kernels", "2.1"), elsewhere)
    monkeypatch.setenv("PIP_FIND_LINKS", str(elsewhere))
    folder = tmp_path / "wheels"
    folder.mkdir()
    with pytest.raises(ValueError, match="no way"):
        check(folder, wheel("vllm", "1.0", "kernels"))


def test_what_the_images_packages_require_counts(tmp_path):
    wheels = [wheel("vllm", "1.0", "torch", "sympy>=2"), wheel("sympy", "2.0")]
    assert check(tmp_path, *wheels)["sympy"] == "2.0"
    with pytest.raises(
        ValueError, match=r"conflict is caused by:\s.*vllm 1\.0 depends on sympy>=2"
    ):
        check(tmp_path, requires={"torch": ["sympy<2"]})


def test_another_cuda_than_torchs_is_refused(tmp_path):
    wheels = [wheel("vllm", "1.0", "libs-cu13"), wheel("libs-cu13", "4.5")]
    with pytest.raises(ValueError, match=r"another CUDA: \['libs_cu13-4.5"):
        check(tmp_path, *wheels)


def test_a_source_distribution_is_refused(tmp_path):
    (tmp_path / "kernels-2.1.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"kernels-2\.1\.tar\.gz is no wheel"):
        check(tmp_path, wheel("vllm", "1.0", "kernels"))


def test_a_folder_in_the_folder_is_refused(tmp_path):
    (tmp_path / "more").mkdir()
    with pytest.raises(ValueError, match="must lie flat"):
        check(tmp_path, wheel("vllm", "1.0"))


# The image and its lock --------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "kaggle").glob("*.lock")), ids=lambda p: p.stem)
def test_the_lock_belongs_to_its_image(path):
    held = wheelhouse.load_image(path.stem)
    lock = wheelhouse.read_lock(path)
    assert lock["vllm"][0] == held.vllm
    assert not set(lock) & set(held.keep)
    assert not [name for name, (version, _) in lock.items() if held.packages.get(name) == version]


def test_the_other_versions_that_are_reported_are_images_of_their_own():
    as_given, other = image(reported={"lark": "1.2.2"}).alternatives()
    assert as_given.packages["lark"] == "1.3.1" and other.packages["lark"] == "1.2.2"
    assert other.packages["torch"] == as_given.packages["torch"]


def test_a_lock_is_read_as_it_was_written(tmp_path):
    wheels = [replace(wheel("b-c", "2.0.dev1"), sha256="0" * 64)]
    wheels.append(replace(wheel("a", "1.0"), sha256="1" * 64))
    path = wheelhouse.write_lock(wheels, tmp_path / "small.lock", image())
    assert wheelhouse.read_lock(path) == {"a": ("1.0", "1" * 64), "b-c": ("2.0.dev1", "0" * 64)}
    path.write_text("a>=1\n")
    with pytest.raises(ValueError, match="name==version --hash=sha256"):
        wheelhouse.read_lock(path)


def test_a_folder_must_hold_what_was_locked(tmp_path):
    path = wheelhouse.write_stand_in(wheel("a", "1.0"), tmp_path)
    lock = {"a": ("1.0", hashlib.sha256(path.read_bytes()).hexdigest())}
    (tmp_path / "arc_airv-0.1.0-py3-none-any.whl").write_bytes(b"any")
    wheelhouse.check_locked(tmp_path, lock)
    path.write_bytes(b"tampered with")
    with pytest.raises(ValueError, match=r"strange \['a-1.0-py3-none-any.whl'\], missing \['a'\]"):
        wheelhouse.check_locked(tmp_path, lock)


def test_an_image_names_its_faults(tmp_path):
    with pytest.raises(ValueError, match="no image 'kaggle-1999' .* it holds .*kaggle-2026"):
        wheelhouse.load_image("kaggle-1999")
    path = tmp_path / "images.toml"
    path.write_text('[one]\nkeep = ["torch"]\n[one.packages]\nnumpy = "2.0.2"\n')
    with pytest.raises(ValueError, match=r"keeps \['torch'\], whose versions"):
        wheelhouse.load_image("one", path)


# The folders to push -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    into = tmp_path_factory.mktemp("kaggle")
    return prepare.prepare_folders(into, owner="some-one", versions={"wheels": 3})


def metadata(folder):
    (path,) = folder.glob("kernel-metadata.json")
    return json.loads(path.read_text())


def test_the_owner_is_filled_in_everywhere(folders):
    paths = sorted(folders.rglob("*-metadata.json"))
    assert len(paths) == len(sorted((ROOT / "kaggle").glob("*/*-metadata.json"))) == 7
    for path in paths:
        text = path.read_text()
        json.loads(text)
        assert "some-one" in text
        assert "$" not in text and "INSERT" not in text


@pytest.mark.parametrize("name", ["vllm_wheels", *OFFLINE])
def test_a_kernel_can_be_pushed(folders, name):
    kernel = metadata(folders / name)
    assert set(kernel) >= KERNEL_KEYS
    assert kernel["id"] == f"some-one/{kernel['title']}"
    assert re.fullmatch(r"[a-z0-9-]{5,50}", kernel["title"])
    assert (folders / name / kernel["code_file"]).is_file()
    assert kernel["enable_internet"] is (name == "vllm_wheels")
    assert kernel["is_private"] is True
    # Every source is pinned; a competition has no versions.
    for source in kernel["dataset_sources"] + kernel["kernel_sources"]:
        assert re.fullmatch(r"some-one/[a-z0-9-]{6,50}/\d+", source)
    for source in kernel["model_sources"]:
        assert re.fullmatch(r"some-one/[a-z-]+/transformers/[a-z-]+/\d+", source)
    assert "some-one/arc-airv-wheels/3" in kernel["dataset_sources"]


def test_the_submission_has_a_gpu_and_no_internet(folders):
    kernel = metadata(folders / "submission")
    assert kernel["enable_gpu"] is True
    assert kernel["enable_internet"] is False
    assert kernel["machine_shape"] == "NvidiaL4"
    assert kernel["competition_sources"] == ["arc-prize-2026-arc-agi-2"]


def test_the_datasets_and_the_model_are_described(folders):
    dataset = json.loads((folders / "wheels" / "dataset-metadata.json").read_text())
    assert 6 <= len(dataset["title"]) <= 50 and 20 <= len(dataset["subtitle"]) <= 80
    assert len(dataset["licenses"]) == 1
    model = json.loads((folders / "model" / "model-metadata.json").read_text())
    variation = json.loads((folders / "model" / "model-instance-metadata.json").read_text())
    assert model["isPrivate"] is True and model["slug"] == variation["modelSlug"]
    source = "/".join([*map(variation.get, ("ownerSlug", "modelSlug", "framework"))])
    assert metadata(folders / "submission")["model_sources"][0].startswith(source)
    assert (folders / "model" / "model.safetensors").is_file()
    assert (folders / "model" / "prompt_format.json").is_file()


def test_options_change_the_metadata(tmp_path):
    image = "gcr.io/kaggle-images/python@sha256:0"
    options = {"wheelhouse": "dataset", "machine": "Other", "model_license": "Gemma"}
    prepare.prepare_folders(tmp_path, owner="me", docker_image=image, **options)
    model = json.loads((tmp_path / "model" / "model-instance-metadata.json").read_text())
    assert model["licenseName"] == "Gemma"
    kernel = metadata(tmp_path / "submission")
    assert kernel["kernel_sources"] == []
    assert kernel["machine_shape"] == "Other"
    assert kernel["docker_image"] == image
    assert metadata(tmp_path / "visualize")["kernel_sources"] == ["me/arc-airv-generate/1"]


def test_nothing_of_another_model_stays(tmp_path):
    prepare.prepare_folders(tmp_path / "out", owner="me")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model-00001-of-00002.safetensors"):
        (other / name).write_text("{}")
    folder = prepare.prepare_folders(tmp_path / "out", owner="me", model=other) / "model"
    left = {path.name for path in folder.iterdir() if "metadata" not in path.name}
    assert left == {path.name for path in other.iterdir()}
    # The weights are on disk once, and stay when the folder is written again.
    (weights,) = folder.glob("*.safetensors")
    assert weights.samefile(other / weights.name) and (other / weights.name).read_text() == "{}"
    # The command does not delete the model that it should copy.
    with pytest.raises(ValueError, match="what this command writes"):
        prepare.prepare_folders(tmp_path / "out", owner="me", model=folder)
    assert (folder / "config.json").is_file()


def test_parameters_are_set_from_the_command_line(tmp_path):
    command = [sys.executable, str(ROOT / "kaggle" / "prepare.py"), "folders", "--owner", "me"]
    settings = ["submission.N_PREDICTIONS=64", 'submission.GPUS="2xT4"', "generate.MINUTES=30"]
    subprocess.run([*command, "--into", str(tmp_path), "--set", *settings], check=True)
    for name, lines in {
        "submission": ["N_PREDICTIONS = 64", 'GPUS = "2xT4"', "TASKS = str(find_input("],
        "generate": ["MINUTES = 30"],
    }.items():
        notebook = nbformat.read(tmp_path / name / f"{name}.ipynb", as_version=4)
        (cell,) = [cell for cell in notebook.cells if cell.id == "kaggle-parameters"]
        assert all(f"\n{line}" in cell.source for line in lines)
    wrong = [*command, "--into", str(tmp_path), "--set", "N_PREDICTIONS=64"]
    result = subprocess.run(wrong, capture_output=True, text=True)
    assert result.returncode == 1 and "--set takes KERNEL.NAME=VALUE" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"owner": "me", "parameters": {"submit": {}}}, "parameters of .*'submit'"),
        ({"owner": "me", "parameters": {"submission": {"N": "1"}}}, r"no parameter \['N'\]"),
        ({"owner": "Some One"}, "owner 'Some One'"),
        ({"owner": "me", "versions": {"wheel": 2}}, "versions of .*'wheel'"),
        ({"owner": "me", "wheelhouse": "home"}, "not 'home'"),
        ({"owner": "me", "model": "docs"}, "docs is no model folder"),
    ],
)
def test_a_mistaken_option_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare.prepare_folders(tmp_path, **options)


def test_without_an_owner_nothing_is_written(tmp_path):
    command = [sys.executable, str(ROOT / "kaggle" / "prepare.py"), "folders", "--into"]
    result = subprocess.run(
        [*command, str(tmp_path / "out")], capture_output=True, text=True, env={"PATH": ""}
    )
    assert result.returncode == 1 and "--owner" in result.stderr
    assert not (tmp_path / "out").exists()


# The notebooks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFLINE)
def test_a_generated_notebook_holds_its_parameters(folders, name):
    notebook = nbformat.read(folders / name / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = notebook.cells
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for parameter, value in prepare.KERNELS[name]["parameters"].items():
        assert f"\n{parameter} = {value}" in cells[tagged[0] + 1].source
    ids = [cell.id for cell in cells]
    assert ids[0] == "cell-00" and "kaggle-install" in ids[1 : tagged[0]]
    for cell in cells:
        if cell.id.startswith("kaggle-"):
            compile(cell.source, cell.id, "exec")
    original = ROOT / "notebooks" / prepare.KERNELS[name]["notebook"]
    rest = [cell for cell in cells if not cell.id.startswith("kaggle-")]
    assert rest == nbformat.read(original, as_version=4).cells


def test_a_renamed_parameter_is_noticed(monkeypatch):
    kernel = prepare.KERNELS["generate"] | {"parameters": {"N_TASK": "1"}}
    monkeypatch.setitem(prepare.KERNELS, "generate", kernel)
    with pytest.raises(ValueError, match=r"no parameter \['N_TASK'\]"):
        prepare.make_notebook("generate")


def run_cells(kernel, *names, inputs):
    cells = prepare.make_notebook(kernel, inputs)["cells"]
    namespace = {}
    for name in names:
        (source,) = ["".join(cell["source"]) for cell in cells if cell["id"] == f"kaggle-{name}"]
        exec(compile(source, name, "exec"), namespace)


def test_the_first_cell_leaves_a_valid_submission(tmp_path, monkeypatch):
    tasks = hide_outputs(dict(list(load_tasks("arc-agi-2/evaluation").items())[:3]))
    folder = tmp_path / "input" / "competitions" / "some-prize"
    folder.mkdir(parents=True)
    path = save_tasks(tasks, folder / "arc-agi_test_challenges.json")
    monkeypatch.chdir(tmp_path)
    run_cells("submission", "fallback", inputs=tmp_path / "input")
    validate_submission("submission.json", tasks)
    # A malformed entry costs nothing but its own answers.
    path.write_text(json.dumps(json.loads(path.read_text()) | {"a": None, "b": {"test": []}}))
    run_cells("submission", "fallback", inputs=tmp_path / "input")
    assert list(json.loads(Path("submission.json").read_text())) == [*tasks, "a", "b"]
    with pytest.raises(FileNotFoundError, match="is it attached"):
        run_cells("submission", "fallback", inputs=tmp_path / "nothing")


def test_the_install_cells_use_no_index_and_go_on_without_vllm(tmp_path, monkeypatch, capsys):
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, command[-1] == "vllm", "", "no space left")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"no arc_airv-\*\.whl .*attached: nothing"):
        run_cells("generate", "install", inputs=tmp_path)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "arc_airv-0.1.0-py3-none-any.whl").write_bytes(b"")
    run_cells("visualize", "install", inputs=tmp_path)
    assert "vLLM" not in capsys.readouterr().out  # this kernel needs no engine
    run_cells("generate", "install", "vllm", inputs=tmp_path)
    assert "No vLLM" in capsys.readouterr().out
    command, again = commands
    assert again == command
    assert "--no-index" in command and command[-2:] == [str(tmp_path / "datasets"), "arc_airv"]
    (tmp_path / "datasets" / "vllm-0.19.1-cp38-abi3-manylinux_2_31_x86_64.whl").write_bytes(b"")
    run_cells("generate", "install", "vllm", inputs=tmp_path)
    assert "pip could not install vllm:\nno space left" in capsys.readouterr().out


# The kernel that builds the wheelhouse, on a small invented image ---------------------------------


def write_wheel(folder, name, version, **modules):
    """Write an installable wheel from modules by name, with their sources."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {f"{name}/{module}.py": source for module, source in modules.items()}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/METADATA"] += "Requires-Dist: torch==2.10.0\n" if name == "vllm" else ""
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, source in files.items():
            archive.writestr(file, source)
    return path


@pytest.fixture
def small_kaggle(tmp_path):
    """Return a function that runs the kernel in an environment with only torch and pip."""
    for name in ("input", "working", "index"):
        (tmp_path / name).mkdir()
    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    (site,) = env.glob("lib/python*/site-packages")
    (site / "pip").symlink_to(Path(find_spec("pip").origin).parent)
    torch = write_wheel(tmp_path, "torch", "2.10.0+cu128", __init__="__version__ = '2.10.0'")
    with zipfile.ZipFile(torch) as archive:
        archive.extractall(site)
    vllm = write_wheel(tmp_path / "index", "vllm", "1.0", __init__="__version__ = '1.0'", _C="")
    lock = [replace(wheel("vllm", "1.0"), sha256=hashlib.sha256(vllm.read_bytes()).hexdigest())]
    wheelhouse.write_lock(lock, tmp_path / "input" / "small.lock", image())

    def run(torch):
        (tmp_path / "input" / "images.toml").write_text(
            f'[small]\nkeep = ["torch"]\n[small.packages]\ntorch = "{torch}"\n'
        )
        source = (ROOT / "kaggle" / "vllm_wheels" / "vllm_wheels.py").read_text()
        for name in ("input", "working"):
            source = source.replace(f"/kaggle/{name}", str(tmp_path / name))
        source = source.replace("/tmp/report.json", str(tmp_path / "report.json"))
        (tmp_path / "kernel.py").write_text(source)
        options = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index")}
        options["PIP_CONFIG_FILE"] = os.devnull
        command = [str(env / "bin" / "python"), str(tmp_path / "kernel.py")]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | options)

    return run


def test_the_wheelhouse_is_built_and_proven(small_kaggle, tmp_path):
    result = small_kaggle("2.10.0+cu128")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("1 wheels, and vLLM imports.\n")
    names = sorted(path.name for path in (tmp_path / "working").iterdir())
    assert names == ["freeze.txt", "vllm-1.0-py3-none-any.whl"]


def test_the_wheelhouse_is_not_built_on_another_image(small_kaggle, tmp_path):
    result = small_kaggle("2.11.0+cu128")
    assert result.returncode == 1
    assert "This image holds torch 2.10.0+cu128, the lock is for 2.11.0+cu128" in result.stderr
    assert "torch==2.10.0+cu128" in result.stdout  # the freeze, for updating images.toml


def test_the_wheelhouse_is_not_built_of_other_files(small_kaggle, tmp_path):
    write_wheel(tmp_path / "index", "vllm", "1.0", __init__="tampered = True")
    result = small_kaggle("2.10.0+cu128")
    assert result.returncode != 0
    assert "DO NOT MATCH THE HASHES" in result.stderr
