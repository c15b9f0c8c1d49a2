"""A look at a model folder says in a sentence what would fail later, or what is meant."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from arc_airv.engines import TransformersEngine, VllmEngine, look_at_model, make_engine
from arc_airv.engines.gpus import Gpu, gpus_for_model
from arc_airv.engines.model_folder import (
    adapter_rank,
    check_lendable,
    gigabytes_of_weights,
    weight_files,
)

TINY = Path(__file__).parents[1] / "tiny"


@pytest.fixture
def make(tmp_path):
    """Write a folder of files: objects as JSON, numbers as so many GiB (sparse)."""

    def make(name, files):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for file, content in files.items():
            if isinstance(content, (int, float)):
                with open(folder / file, "wb") as opened:
                    opened.truncate(int(content * 2**30))
            else:
                text = content if isinstance(content, str) else json.dumps(content)
                (folder / file).write_text(text)
        return folder

    return make


WHOLE = {"config.json": {"model_type": "qwen3"}, "model.safetensors": 0.1, "tokenizer.json": {}}


def without(*names, **more):
    return {k: v for k, v in WHOLE.items() if k not in names} | more


def test_a_whole_folder_is_found():
    found = look_at_model(TINY)
    assert (found.model, found.adapter, found.tokenizer) == (str(TINY), None, str(TINY))
    assert found.config["model_type"] == "qwen3" and found.quantization is None


@pytest.mark.parametrize(
    "name", ["/nowhere/at/all", "a/b/c", "./nothing", "{tmp}/nothing", "tests/nothing"]
)
def test_a_path_that_is_not_there_is_no_question_to_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])  # where there is a folder tests
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(ValueError, match="there is no model folder .*[a-z]$"):
        look_at_model(name.format(tmp=tmp_path))


def test_a_name_on_the_hub_is_asked_for_once(monkeypatch):
    asked = []

    def model_info(self, name, timeout):
        asked.append(name)
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    with pytest.raises(ValueError, match="no model folder some/model, and the .*Hub cannot be rea"):
        look_at_model("some/model")
    assert asked == ["some/model"]
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: object())
    assert look_at_model("some/model").model == "some/model"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="none of that name in the Hugging Face cache"):
        look_at_model("some/model")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (without("config.json"), "is no model folder: it holds no config.json"),
        (without("tokenizer.json"), "holds no tokenizer .*copy the tokenizer's files"),
        (without("model.safetensors"), "holds no weights"),
        (without("model.safetensors", **{"optimizer.bin": 0.1}), "holds no weights"),
        (without("config.json", **{"config.json": "{"}), "config.json is not JSON"),
        (without("config.json", **{"config.json": "[]"}), "must hold an object, got list"),
        (
            without(
                "model.safetensors",
                **{
                    "model-1.safetensors": 0.1,
                    "model.safetensors.index.json": {
                        "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}
                    },
                },
            ),
            "lacks 1 of its 2 files of weights: model-2.safetensors",
        ),
        *(
            (without(**{"model.safetensors.index.json": index}), message)
            for index, message in (
                ({"weight_map": {"a": 5}}, "index.json names no files of weights"),
                ({"weight_map": []}, "index.json names no files of weights"),
                ("{", "index.json is not JSON"),
            )
        ),
    ],
)
def test_what_a_folder_lacks_is_said(make, files, message):
    folder = make("model", files)
    with pytest.raises(ValueError, match=message):
        look_at_model(folder)
    gigabytes_of_weights(folder)  # is asked before anything looks, and must not fail


def test_two_saves_in_one_folder_are_not_chosen_from(make):
    index = {"weight_map": {"a": "model-1.safetensors"}}
    shards = {"model-1.safetensors": 0.1, "model.safetensors.index.json": index}
    folder = make("model", {**WHOLE, **shards})
    message = "two saves: model.safetensors, and model-1.safetensors of model.safetensors.index.js"
    with pytest.raises(ValueError, match=message):
        look_at_model(folder)
    for file in shards:
        (folder / file).unlink()
    look_at_model(folder)
    named = {"weight_map": {"a": "model.safetensors"}}
    look_at_model(make("indexed", {**WHOLE, "model.safetensors.index.json": named}))


def test_a_tokenizer_may_come_from_elsewhere(make):
    folder = make("model", without("tokenizer.json"))
    assert look_at_model(folder, has_tokenizer=True).model == str(folder)


def test_the_folder_that_is_meant_is_named(make, tmp_path):
    make("data/version/model", WHOLE)
    with pytest.raises(ValueError, match="did you mean .*data/version/model?"):
        look_at_model(tmp_path / "data")
    with pytest.raises(ValueError, match="is a file: give the folder of a model"):
        look_at_model(tmp_path / "data/version/model/config.json")


# Weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"model.safetensors": 1, "pytorch_model.bin": 1}, ["model.safetensors"]),
        ({"model.safetensors": 1, "consolidated.safetensors": 1}, ["model.safetensors"]),
        ({"consolidated.safetensors": 1}, ["consolidated.safetensors"]),
        ({"pytorch_model.bin": 1, "training_args.bin": 1}, ["pytorch_model.bin"]),
        ({"a.safetensors": 1, "adapter_model.safetensors": 1}, ["a.safetensors"]),
        (
            {
                "model.safetensors.index.json": {"weight_map": {"x": "b.safetensors"}},
                "b.safetensors": 1,
                "model.safetensors": 1,
            },
            ["b.safetensors"],
        ),
    ],
)
def test_weights_that_stand_twice_count_once(make, files, names):
    assert [path.name for path in weight_files(make("model", files))] == names


def test_a_model_with_weights_twice_gets_as_few_gpus_as_hold_it(make):
    t4 = [Gpu(i, "Tesla T4", 15.0, (7, 5)) for i in range(2)]
    twice = make("twice", {**WHOLE, "model.safetensors": 8, "consolidated.safetensors": 8})
    assert gpus_for_model(twice, t4) == 1
    large = make("large", {**WHOLE, "model.safetensors": 16})
    adapter = make("adapter", {"adapter_config.json": {"base_model_name_or_path": str(large)}})
    assert gpus_for_model(adapter, t4) == gpus_for_model(large, t4) == 2


# Adapters ----------------------------------------------------------------------------------------


def test_an_adapter_stands_for_its_base_with_it(make):
    base = make("base", WHOLE)
    config = {"base_model_name_or_path": str(base), "r": 8, "rank_pattern": {"q_proj": 32}}
    adapter = make("adapter", {"adapter_config.json": config, "adapter_model.safetensors": 0.1})
    found = look_at_model(adapter)
    assert (found.model, found.adapter) == (str(base), str(adapter))
    assert found.tokenizer == str(base) and adapter_rank(adapter) == 32
    (adapter / "tokenizer.json").touch()
    assert look_at_model(adapter).tokenizer == str(adapter)
    relative = {"adapter_config.json": {**config, "base_model_name_or_path": "../base"}}
    assert Path(look_at_model(make("other", relative)).model).samefile(base)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (None, "is an adapter that does not name its base model: write the path"),
        ("/trained/elsewhere", "is an adapter of /trained/elsewhere, but there is no model folder"),
    ],
)
def test_an_adapter_without_its_base_says_what_to_do(make, base, message):
    folder = make("adapter", {"adapter_config.json": {"base_model_name_or_path": base, "r": 8}})
    with pytest.raises(ValueError, match=f"{message}.*merge it into its base"):
        look_at_model(folder)


@pytest.mark.parametrize("weights", [{}, {"adapter_model.safetensors": 0.1}])
def test_merged_weights_are_not_asked_with_their_adapter_beside_them(make, weights):
    adapter = {"adapter_config.json": {"base_model_name_or_path": str(TINY), "r": 8}, **weights}
    folder = make("model", {**WHOLE, **adapter})
    with pytest.raises(ValueError, match="move adapter_config.json and adapter_model.* into a fol"):
        look_at_model(folder)
    for name in adapter:
        (folder / name).unlink()
    assert look_at_model(folder).adapter is None


LORA = [f"base_model.model.q_proj.lora_{name}.weight" for name in ("A", "B", "magnitude_vector")]


@pytest.mark.parametrize(
    ("config", "tensors", "kept"),
    [
        ({"modules_to_save": ["lm_head"]}, LORA, "modules_to_save"),
        ({"bias": "all"}, LORA, "bias"),
        ({"trainable_token_indices": [5]}, LORA, "trainable_token_indices"),
        ({"layer_replication": [[0, 2], [1, 3]]}, LORA, "layer_replication"),
        ({"kasa_config": {"beta": 1.0}}, LORA, "kasa_config"),
        *(
            ({"init_lora_weights": start}, LORA, f"init_lora_weights={start}")
            for start in ("pissa", "pissa_niter_4", "olora", "OLoRA", "loftq", "corda", "lora_ga")
        ),
        ({}, [*LORA, "base_model.model.embed_tokens.weight"], "base_model.model.embed_tokens.wei"),
    ],
)
def test_an_adapter_that_changes_its_base_is_not_lent(make, config, tensors, kept):
    numpy = pytest.importorskip("safetensors.numpy")
    folder = make("adapter", {"adapter_config.json": {"r": 8, **config}})
    numpy.save_file(dict.fromkeys(tensors, np.zeros(1)), folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=f"LoRA matrices .{kept}.*: merge it into its base"):
        check_lendable(folder)


@pytest.mark.parametrize("start", [None, True, False, "gaussian", "orthogonal", "eva"])
def test_an_adapter_of_lora_matrices_is_lent(make, start):
    numpy = pytest.importorskip("safetensors.numpy")
    config = {"r": 8, "bias": "none", "modules_to_save": None, "init_lora_weights": start}
    folder = make("adapter", {"adapter_config.json": config})
    check_lendable(folder)
    numpy.save_file(dict.fromkeys(LORA, np.zeros(1)), folder / "adapter_model.safetensors")
    check_lendable(folder)
    (folder / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="is no safetensors file: copy it again"):
        check_lendable(folder)


# Quantized weights, and windows ------------------------------------------------------------------


def test_the_way_weights_are_quantized_is_read(make):
    for number, (config, method) in enumerate(
        [
            ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
            ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
            ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ]
    ):
        folder = make(str(number), without(**{"config.json": config}))
        assert look_at_model(folder).quantization == method


@pytest.mark.parametrize(
    ("method", "capability", "runs"),
    [
        ("awq", (7, 5), True),
        ("gptq", (7, 5), True),
        ("compressed-tensors", (8, 9), True),
        ("mxfp4", (7, 5), False),
        ("mxfp4", (8, 9), True),
        ("unheard-of", (8, 9), False),
    ],
)
def test_vllm_runs_what_a_gpu_can(make, method, capability, runs):
    pytest.importorskip("vllm")
    from arc_airv.engines.vllm import _check_quantization

    config = {"quantization_config": {"quant_method": method}}
    folder = look_at_model(make("model", without(**{"config.json": config})))
    if runs:
        _check_quantization(folder, capability)
    else:
        with pytest.raises(ValueError, match=f"is quantized \\({method}\\), which vLLM "):
            _check_quantization(folder, capability)


def test_quantized_weights_that_transformers_cannot_load_are_said(make):
    config = json.loads((TINY / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    folder = make("model", {"config.json": config})
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    with pytest.raises(ValueError, match="is quantized .bitsandbytes., which Transformers cannot"):
        TransformersEngine(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("config", "warns"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, True),
        ({"model_type": "mistral", "sliding_window": None}, False),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, False),
        ({"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"]}, False),
        ({"text_config": {"sliding_window": 512, "max_position_embeddings": 8192}}, True),
    ],
)
def test_a_model_that_never_sees_a_whole_prompt_is_a_warning(make, config, warns, recwarn):
    config = {"max_position_embeddings": 32768, **config}
    look_at_model(make("model", without(**{"config.json": config})))
    said = [str(warning.message) for warning in recwarn]
    assert any("every layer sees the last" in text for text in said) == warns


@pytest.mark.parametrize(("theta", "refused"), [(1e4, False), (1e6, True)])
def test_positions_that_an_old_library_would_ignore_are_refused(make, monkeypatch, theta, refused):
    rope = {"rope_theta": theta, "rope_type": "default"}
    folder = make("model", without(**{"config.json": {"rope_parameters": rope}}))
    look_at_model(folder)  # by Transformers 5, which is installed here
    monkeypatch.setattr("importlib.metadata.version", lambda name: "4.57.1")
    if not refused:
        look_at_model(folder)
        return
    with pytest.raises(ValueError, match="written by Transformers 5, and the 4.57.1 .* ignore"):
        look_at_model(folder)


# Engines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "vllm", "transformers"])
def test_every_engine_looks_first(make, name):
    if name != "transformers":
        pytest.importorskip("vllm")
    with pytest.raises(ValueError, match="holds no tokenizer"):
        make_engine(name, str(make("model", without("tokenizer.json"))), {})


def test_vllm_looks_before_it_starts_anything(make):
    pytest.importorskip("vllm")
    with pytest.raises(ValueError, match="no model folder /nowhere"):
        VllmEngine("/nowhere")
