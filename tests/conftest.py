"""Fixtures of several test modules: a tiny model folder with random weights, real tasks."""

import os

import hypothesis
import pytest

from arc_airv.tasks import load_tasks

# A busy machine must not fail an example.
# CI draws the same examples every time; elsewhere each run draws new ones.
fixed = "CI" in os.environ
hypothesis.settings.register_profile("patient", deadline=None, derandomize=fixed)
hypothesis.settings.load_profile("patient")
# Results must not depend on earlier tests or on a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


@pytest.fixture(scope="session")
def training_tasks():
    return load_tasks("arc-agi-1/training")


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """Make a folder with an untrained model of the shipped format: it answers with noise."""
    torch = pytest.importorskip("torch")
    from arc_airv.training.tiny import build_model, build_tokenizer, tiny_prompt_format
    from arc_airv.training.train import save_model

    folder = tmp_path_factory.mktemp("random_model")
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = build_model(tokenizer, width=64, layers=2, heads=2, context=2048)
    with torch.no_grad():  # far from uniform, so that greedy choices have no near ties
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(8)
    save_model(model, tokenizer, tiny_prompt_format(), folder)
    return folder
