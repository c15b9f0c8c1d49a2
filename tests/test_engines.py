"""Real engines: vLLM and Transformers give the same replies to the same prompts."""

import math
import warnings

import pytest

from arc_airv.augment import sample_augmentations
from arc_airv.engines import Sampling, TransformersEngine, VllmEngine
from arc_airv.engines.base import checked_logprob, choose_dtype
from arc_airv.infer import generate_predictions
from arc_airv.records import read_predictions

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def prompts(random_model, training_tasks):
    from arc_airv.prompts import PromptFormat

    render = PromptFormat.load(random_model).render
    tasks = [training_tasks[task_id] for task_id in ("25ff71a9", "a85d4709", "3c9b0459")]
    return [render(a.apply_task(t)) for t in tasks for a in sample_augmentations(t, 2, seed=0)]


@pytest.fixture(scope="module")
def transformers_engine(random_model):
    return TransformersEngine(str(random_model))


@pytest.fixture(scope="module")
def vllm_engine(random_model):
    pytest.importorskip("vllm")
    engine = VllmEngine(str(random_model))
    yield engine
    engine.close()


@pytest.fixture(params=["transformers_engine", "vllm_engine"])
def engine(request):
    return request.getfixturevalue(request.param)


def test_replies_come_in_the_order_of_the_prompts(engine, prompts):
    batch = engine.generate(prompts, Sampling(max_tokens=12))
    alone = [engine.generate([p], Sampling(max_tokens=12))[0] for p in prompts]
    assert [r[0].text for r in batch] == [r[0].text for r in alone]


def test_a_completion_says_its_length_and_why_it_ended(engine, prompts):
    for (completion,) in engine.generate(prompts, Sampling(max_tokens=9)):
        assert completion.n_tokens <= 9
        assert completion.finish_reason in ("stop", "length")
        assert completion.finish_reason == "stop" or completion.n_tokens == 9
        assert completion.cumulative_logprob < 0


def test_vllm_and_transformers_agree(vllm_engine, transformers_engine, prompts):
    sampling = Sampling(max_tokens=20)
    for (a,), (b,) in zip(
        vllm_engine.generate(prompts, sampling), transformers_engine.generate(prompts, sampling)
    ):
        assert a.text == b.text
        assert a.n_tokens == b.n_tokens
        assert a.finish_reason == b.finish_reason
        assert a.cumulative_logprob == pytest.approx(b.cumulative_logprob, abs=1e-2)


def test_transformers_logprob_equals_a_forward_pass(transformers_engine, prompts):
    import torch

    engine = transformers_engine
    (completion,) = engine.generate(prompts[:1], Sampling(max_tokens=8))[0]
    prompt = engine.encode(prompts[:1])[0]
    reply = engine.tokenizer.encode(completion.text, add_special_tokens=False)
    with torch.inference_mode():
        logits = engine.network(torch.tensor([prompt + reply])).logits[0].double()
    logprobs = logits.log_softmax(-1)
    total = sum(logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(reply))
    assert completion.cumulative_logprob == pytest.approx(total, abs=1e-3)


def test_several_samples_of_a_prompt_differ_and_repeat_with_the_seed(engine, prompts):
    sampling = Sampling(n=4, temperature=1.5, max_tokens=10, seed=7)
    first = engine.generate(prompts[:2], sampling)
    assert [len(completions) for completions in first] == [4, 4]
    assert len({c.text for c in first[0]}) > 1
    again = engine.generate(prompts[:2], sampling)
    assert [[c.text for c in r] for r in again] == [[c.text for c in r] for r in first]


def test_logprobs_are_those_before_temperature(engine, prompts):
    greedy = engine.generate(prompts[:1], Sampling(max_tokens=1))[0][0]
    cold = engine.generate(prompts[:1], Sampling(temperature=1e-4, max_tokens=1, seed=0))[0][0]
    assert cold.text == greedy.text
    assert cold.cumulative_logprob == pytest.approx(greedy.cumulative_logprob, abs=1e-3)


def test_a_prompt_that_does_not_fit_is_a_clear_error(engine, prompts):
    with pytest.raises(ValueError, match="prompt 0 has .* exceeds the 2048"):
        engine.generate(prompts[:1], Sampling(max_tokens=2048))


def test_a_run_through_the_engine_counts_every_prediction(engine, training_tasks, tmp_path):
    tasks = {t: training_tasks[t] for t in ("25ff71a9", "3c9b0459", "00d62c1b")}
    store = tmp_path / "predictions.jsonl"
    summary = generate_predictions(
        tasks, engine, n_predictions=2, seed=0, store=store, progress=False
    )
    predictions = read_predictions(store)
    assert summary.stopped == "done"
    assert len(predictions) == summary.n_new == 8  # 25ff71a9 has two test outputs
    # The task of up to 20 x 20 leaves no room for a reply of 900 cells within 2,048 tokens.
    too_long = predictions[predictions["status"] == "prompt_too_long"]
    assert set(too_long["task_id"]) == {"00d62c1b"}


def test_stopping_a_stream_early_leaves_the_engine_usable(engine, prompts):
    stream = engine.stream((p, Sampling(max_tokens=40)) for p in prompts * 5)
    next(stream)
    stream.close()
    replies = engine.generate(prompts[:2], Sampling(max_tokens=5))
    assert [len(r) for r in replies] == [1, 1]


def test_an_unknown_option_is_named():
    pytest.importorskip("vllm")
    with pytest.raises(ValueError, match="no option .*'gpu_memory'"):
        VllmEngine("nowhere", gpu_memory=0.9)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [(None, "float32"), ((6, 0), "float16"), ((7, 5), "float16"), ((8, 0), "auto")],
)
def test_the_dtype_suits_the_device(capability, dtype):
    assert choose_dtype(capability) == dtype


def test_a_nan_logprob_is_reported_and_not_kept():
    with pytest.warns(UserWarning, match="nan"):
        assert checked_logprob(math.nan) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checked_logprob(-1.5) == -1.5


@pytest.mark.parametrize(
    "options",
    [{"n": 0}, {"n": 2}, {"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}],
)
def test_sampling_refuses_what_makes_no_sense(options):
    with pytest.raises(ValueError):
        Sampling(**options)
