"""The engine of a machine uses all its GPUs, and one GPU needs no Ray."""

import importlib.util
from pathlib import Path

import pytest

from arc_airv.engines import adapter_options, auto_engine, make_engine
from arc_airv.engines import auto as choice
from arc_airv.engines.gpus import Gpu

TINY = str(Path(__file__).parents[1] / "tiny")
T4 = [Gpu(i, "Tesla T4", 15.0, (7, 5)) for i in range(4)]


@pytest.fixture
def made(monkeypatch):
    """Record the engines to make, without making them."""
    made = []

    def plain(model, **options):
        made.append(("plain", options))

    def on_ray(factory, **options):
        factory()
        made.append(("ray", options))

    def humble(model, **options):
        made.append(("transformers", options))

    monkeypatch.setitem(choice.ENGINES, "vllm", "arc_airv.engines.auto:plain")
    monkeypatch.setitem(choice.ENGINES, "transformers", "arc_airv.engines.auto:humble")
    monkeypatch.setattr(choice, "plain", plain, raising=False)
    monkeypatch.setattr(choice, "humble", humble, raising=False)
    monkeypatch.setattr("arc_airv.engines.cluster.ray.RayEngine", on_ray)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def make(n, **options):
        made.clear()
        monkeypatch.setattr(choice, "find_gpus", lambda: T4[:n])
        auto_engine(TINY, **options)
        return made

    return make


@pytest.mark.parametrize("n", [0, 1])
def test_one_gpu_or_none_gets_the_plain_engine(made, n):
    ((kind, options),) = made(n, max_model_len=4096)
    assert kind == "plain" and options["max_model_len"] == 4096
    assert ("dtype" in options) == (n == 1)


def test_adapters_on_a_cpu_are_for_transformers(made):
    needed = adapter_options("auto", 16)
    assert made(0, max_model_len=4096, **needed) == [("transformers", {"max_model_len": 4096})]
    ((kind, options),) = made(1, **needed)
    assert kind == "plain" and options["max_lora_rank"] == 16


def test_several_gpus_get_an_engine_each(made):
    plain, ray = made(4)
    assert ray == ("ray", {"n_workers": 4, "gpus_per_worker": 1})
    assert plain[1]["dtype"] == "float16" and "tensor_parallel_size" not in plain[1]


def test_a_model_that_is_spread_has_fewer_engines(made):
    plain, ray = made(4, tensor_parallel_size=2)
    assert ray == ("ray", {"n_workers": 2, "gpus_per_worker": 2})
    assert plain[1]["tensor_parallel_size"] == 2
    assert [kind for kind, _ in made(2, tensor_parallel_size=2)] == ["plain"]


def test_without_ray_one_gpu_is_used_and_a_warning_says_so(made, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="Ray is not installed: 1 of 2 GPUs"):
        ((kind, _),) = made(2)
    assert kind == "plain"


def test_an_unknown_engine_is_a_clear_error():
    with pytest.raises(ValueError, match="must be one of .*'auto'.*got 'vlm'"):
        make_engine("vlm", "model", {})


def test_vllm_is_made_with_room_for_the_adapters():
    """Choose the smallest sufficient rank that vLLM supports; Transformers needs no options."""
    rooms = {rank: adapter_options("vllm", rank)["max_lora_rank"] for rank in (1, 8, 12, 16, 512)}
    assert rooms == {1: 8, 8: 8, 12: 16, 16: 16, 512: 512}
    assert adapter_options("transformers", 1000) == {}
    for rank in (0, 513):
        with pytest.raises(ValueError, match=f"1 to 512 in vLLM, got {rank}"):
            adapter_options("vllm", rank)
