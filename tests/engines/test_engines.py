"""Real engines: vLLM and Transformers give the same replies to the same prompts."""

import functools
import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from rays import small_ray

from arc_airv.augment import Augmentation, sample_augmentations
from arc_airv.engines import (
    RayEngine,
    Sampling,
    TransformersEngine,
    VllmEngine,
    answer_tokens,
    look_at_model,
    threshold_search,
)
from arc_airv.engines.base import checked_logprob, choose_dtype
from arc_airv.grids import format_grid
from arc_airv.infer.generate import generate_predictions
from arc_airv.prompts.format import PromptFormat
from arc_airv.records import read_predictions

pytest.importorskip("torch")
TINY = Path(__file__).parents[1] / "tiny"


@pytest.fixture(scope="module")
def prompts(random_model, training_tasks):
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


@pytest.fixture(scope="module")
def ray_engine(random_model, tmp_path_factory):
    """Make an engine of two workers with vLLM."""
    pytest.importorskip("vllm")
    with small_ray(tmp_path_factory, n_cpus=2):
        engine = RayEngine(functools.partial(VllmEngine, str(random_model)), 2, chunk=2)
        engine.wait_ready()
        yield engine
        engine.close()


@pytest.fixture(params=["transformers_engine", "vllm_engine", "ray_engine"])
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


def brute_force(engine, prompt, continuation):
    """Return the log-probability of a continuation by one forward pass in float64."""
    import torch

    ids = engine.encode([prompt])[0]
    tokens = engine.tokenizer.encode(continuation, add_special_tokens=False)
    with torch.inference_mode():
        logits = engine.network(torch.tensor([ids + tokens])).logits[0].double()
    rows = logits.log_softmax(-1)[len(ids) - 1 : -1]
    return math.fsum(row[token].item() for row, token in zip(rows, tokens))


def test_transformers_logprob_equals_a_forward_pass(transformers_engine, prompts):
    engine = transformers_engine
    (completion,) = engine.generate(prompts[:1], Sampling(max_tokens=8))[0]
    total = brute_force(engine, prompts[0], completion.text)
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


# Adapters ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(random_model, tmp_path_factory):
    """Make an adapter that changes every answer, in a folder of its own; it names its base."""
    import torch
    from transformers import AutoModelForCausalLM

    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    network = AutoModelForCausalLM.from_pretrained(random_model)
    config = peft.LoraConfig(r=24, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(network, config)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora" in name:
                p.mul_(5)
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    adapted.save_pretrained(folder)
    return str(folder)


def test_an_adapter_given_as_a_model_is_its_base_with_it(
    adapter, transformers_engine, prompts, answers
):
    sampling = Sampling(max_tokens=6)
    as_model = TransformersEngine(adapter)
    assert as_model.prompt_format == transformers_engine.prompt_format
    replies = as_model.generate(prompts, sampling)
    asked = transformers_engine.generate(prompts, replace(sampling, adapter=adapter))
    plain = transformers_engine.generate(prompts, sampling)
    assert [r[0].text for r in replies] == [r[0].text for r in asked]
    assert [r[0].text for r in replies] != [r[0].text for r in plain]
    # The request that its replies are scored by goes through the adapter, too.
    (score,) = as_model.score(prompts[:1], [[answers[0]]])
    assert score[0] == pytest.approx(brute_force(as_model, prompts[0], answers[0]), abs=2e-3)


def test_vllm_answers_as_transformers_with_an_adapter_for_a_model(adapter, prompts, answers):
    pytest.importorskip("vllm")
    ours = TransformersEngine(adapter)
    with pytest.warns(UserWarning, match="slow with adapters on a CPU"):
        theirs = VllmEngine(adapter)
    assert theirs.options["max_lora_rank"] == 32
    sampling = Sampling(max_tokens=6)
    for (a,), (b,) in zip(ours.generate(prompts, sampling), theirs.generate(prompts, sampling)):
        assert a.text == b.text
    with pytest.raises(ValueError, match="is an adapter, through which vLLM cannot score on a CPU"):
        theirs.score(prompts[:1], answers[:1])
    with pytest.raises(ValueError, match="is an adapter itself: merge it into its base"):
        theirs.generate(prompts[:1], replace(sampling, adapter=adapter))
    theirs.close()


def only_adapters(room):
    """Make an engine that nothing but its requests for adapters is asked of."""
    pytest.importorskip("vllm")
    engine = VllmEngine.__new__(VllmEngine)
    engine.folder, engine._adapters = look_at_model(TINY), {}
    engine.options = {"enable_lora": True, "max_lora_rank": room}
    return engine


def test_an_adapter_above_the_engines_rank_is_refused_in_a_sentence(adapter):
    with pytest.raises(ValueError, match="has rank 24, above the engine's max_lora_rank of 16"):
        only_adapters(16)._lora_request(adapter)


def test_vllm_refuses_an_adapter_that_it_would_serve_in_part(adapter, tmp_path, monkeypatch):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["init_lora_weights"] = "olora"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="more than LoRA matrices .init_lora_weights=olora."):
        only_adapters(32)._lora_request(folder)
    monkeypatch.setattr("vllm.LLM", lambda **_: pytest.fail("started"))
    with pytest.raises(ValueError, match="more than LoRA matrices .init_lora_weights=olora."):
        VllmEngine(str(folder))


def test_vllm_does_not_answer_by_an_adapter_that_was_trained_again_since(adapter, tmp_path):
    folder, engine = shutil.copytree(adapter, tmp_path / "adapter"), only_adapters(32)
    first, same = (engine._lora_request(folder) for _ in range(2))
    (folder / "adapter_model.safetensors").touch()
    again = engine._lora_request(folder)
    # By these it keeps the matrices of an adapter, and what was computed with it.
    known = [(request.lora_int_id, request.lora_name) for request in (first, same, again)]
    assert known[0] == known[1] and not set(known[0]) & set(known[2])
    assert first.lora_path == again.lora_path == str(folder)


# Scores ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(random_model, training_tasks):
    """Make replies of several lengths, with their end mark."""
    render = PromptFormat.load(random_model).render_answer
    outputs = [render(pair.output) for pair in training_tasks["3c9b0459"].train]
    return [*outputs, "1 0a1b2c3d4e5f6g7h8i9j\n2 0a1b2c3d4e5f6g7h8i9j<end>", "1 ", "<end>"]


def test_scores_are_those_of_a_forward_pass(engine, transformers_engine, prompts, answers):
    scores = engine.score(prompts[:4], [answers, answers[:1], [], answers[2:]])
    assert list(map(len, scores)) == [len(answers), 1, 0, len(answers) - 2]
    expected = [brute_force(transformers_engine, prompts[0], a) for a in answers]
    assert scores[0] == pytest.approx(expected, abs=2e-3)
    assert scores[1] == pytest.approx([brute_force(transformers_engine, prompts[1], answers[0])])
    assert all(type(score) is float and score < 0 for score in scores[0])


def test_one_continuation_of_each_prompt_gives_one_score_of_each(engine, prompts, answers):
    # The third prompt repeats the first.
    few = [prompts[0], prompts[3], prompts[0]]
    flat = engine.score(few, answers[:3])
    nested = engine.score(few, [[a] for a in answers[:3]])
    assert flat == pytest.approx([score for (score,) in nested], abs=1e-4)
    assert flat[2] == pytest.approx(engine.score(prompts[:1], answers[2:3])[0], abs=1e-3)


def test_a_score_is_what_generation_reported(engine, prompts):
    for prompt, (reply,) in zip(prompts, engine.generate(prompts, Sampling(max_tokens=15))):
        end = "<end>" if reply.finish_reason == "stop" else ""
        (score,) = engine.score([prompt], [reply.text + end])
        assert score == pytest.approx(reply.cumulative_logprob, abs=2e-3)


def test_no_token_spans_the_border_of_prompt_and_continuation():
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    from arc_airv.engines.local import LocalEngine

    core = ByteLevelBPETokenizer()
    core.train_from_iterator(["12 12 12 12 34 34"] * 50, vocab_size=270)
    engine = LocalEngine()
    engine.tokenizer = PreTrainedTokenizerFast(tokenizer_object=core._tokenizer)
    engine.max_model_len = 100
    (together,) = engine.encode(["12"])[0]
    prompt, (continuation,) = engine.encode_continuations(0, "1", ["2"])
    assert engine.tokenizer.decode([together]) == "12"
    assert [engine.tokenizer.decode(ids) for ids in (prompt, continuation)] == ["1", "2"]


def test_scores_do_not_depend_on_the_order(engine, prompts, answers):
    pairs = [(p, a) for p in prompts for a in answers]
    forth = engine.score(*zip(*pairs))
    back = engine.score(*zip(*pairs[::-1]))[::-1]
    alone = [engine.score([p], [a])[0] for p, a in pairs[::5]]
    assert back == pytest.approx(forth, abs=1e-3)
    assert alone == pytest.approx(forth[::5], abs=1e-3)


def test_scores_do_not_depend_on_the_batches(transformers_engine, random_model, prompts, answers):
    small = TransformersEngine(str(random_model), batch_tokens=700)
    few, several = prompts[:3], [answers] * 3
    for a, b in zip(small.score(few, several), transformers_engine.score(few, several)):
        assert a == pytest.approx(b, abs=1e-4)


def test_a_prompt_passes_through_the_network_once(transformers_engine, prompts, training_tasks):
    engine = transformers_engine
    render = engine.prompt_format.render_answer
    outputs = {format_grid(p.output): p.output for t in training_tasks.values() for p in t.train}
    nine = [g for g in outputs.values() if g.shape == (3, 3)][:8]
    passed = []
    hook = engine.network.register_forward_pre_hook(
        lambda module, args, kwargs: passed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    engine.score([prompts[4]] * 8, list(map(render, nine)))
    hook.remove()
    n_prompt, n_answer = engine.count_tokens([prompts[4], render(nine[0])])
    assert sum(passed) == n_prompt + 8 * (n_answer - 1)
    assert sum(passed) < 8 * (n_prompt + n_answer) / 4


@pytest.mark.parametrize(
    ("prompts_of", "continuations", "message"),
    [
        ([0, 1], ["1 "], "one entry of continuations for each prompt, got 1 for 2"),
        ([0], [["1 ", ""]], "must not be empty, got ''"),
        ([0], ["0a" * 2000], "prompt 0 has .* a continuation of 2000 it exceeds the 2048"),
    ],
)
def test_what_cannot_be_scored_is_a_clear_error(
    engine, prompts, prompts_of, continuations, message
):
    with pytest.raises(ValueError, match=message):
        engine.score([prompts[i] for i in prompts_of], continuations)
    assert len(engine.score(prompts[:1], ["1 "])) == 1  # it still works


def test_an_empty_prompt_is_a_clear_error(engine, prompts):
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        engine.generate([prompts[0], ""], Sampling(max_tokens=4))


@pytest.mark.parametrize(
    "options",
    [{"stop": "<end>"}, {"stop": [""]}, {"stop": [5]}, {"temperature": float("nan")}, {"n": 0}],
)
def test_sampling_that_would_ruin_a_run_is_refused(options):
    with pytest.raises(ValueError, match="got"):
        Sampling(**options)


# Searches ----------------------------------------------------------------------------------------


def test_a_beam_of_width_1_is_greedy(engine, prompts):
    greedy = engine.generate(prompts, Sampling(max_tokens=15))
    for (a,), (b,) in zip(engine.beam_search(prompts, 1, 15), greedy):
        assert (a.text, a.n_tokens, a.finish_reason) == (b.text, b.n_tokens, b.finish_reason)
        assert a.cumulative_logprob == pytest.approx(b.cumulative_logprob, abs=2e-3)


def test_beams_are_sorted_distinct_and_as_probable_as_they_say(engine, prompts):
    for prompt, beams in zip(prompts, engine.beam_search(prompts, 4, 10)):
        assert len({beam.text for beam in beams}) == 4
        logprobs = [beam.cumulative_logprob for beam in beams]
        assert logprobs == sorted(logprobs, reverse=True)
        texts = [b.text + ("<end>" if b.finish_reason == "stop" else "") for b in beams]
        assert engine.score([prompt], [texts])[0] == pytest.approx(logprobs, abs=2e-3)


def test_beams_of_both_engines_agree(vllm_engine, transformers_engine, prompts):
    pairs = [e.beam_search(prompts[:4], 5, 8) for e in (vllm_engine, transformers_engine)]
    for ours, theirs in zip(*pairs):
        assert [beam.text for beam in ours] == [beam.text for beam in theirs]


def test_beams_are_those_of_vllm(vllm_engine, prompts):
    from vllm.sampling_params import BeamSearchParams

    engine = vllm_engine
    params = BeamSearchParams(beam_width=3, max_tokens=6, length_penalty=0.0)
    inputs = [{"prompt_token_ids": ids} for ids in engine.encode(prompts[:3])]
    for ids, beams, theirs in zip(
        engine.encode(prompts[:3]),
        engine.beam_search(prompts[:3], 3, 6),
        engine.llm.beam_search(inputs, params),
    ):
        assert all(beam.finish_reason == "length" for beam in beams)  # too few tokens to end
        texts = [engine.tokenizer.decode(s.tokens[len(ids) :]) for s in theirs.sequences]
        assert [beam.text for beam in beams] == texts
        assert [beam.cumulative_logprob for beam in beams] == pytest.approx(
            [s.cum_logprob for s in theirs.sequences], abs=1e-3
        )


def test_a_search_that_needs_more_logprobs_than_the_engine_gives_is_a_clear_error(
    vllm_engine, prompts
):
    with pytest.raises(ValueError, match="the 130 most probable .* gives 128: .* max_logprobs"):
        vllm_engine.beam_search(prompts[:1], 65, 2)


def test_a_run_with_beams_stores_the_best_replies_as_samples(engine, training_tasks, tmp_path):
    tasks = {t: training_tasks[t] for t in ("25ff71a9", "3c9b0459")}
    store = tmp_path / "predictions.jsonl"
    sampling = Sampling(n=2, beam_width=3)
    options = {"seed": 0, "store": store, "sampling": sampling, "progress": False}
    assert generate_predictions(tasks, engine, n_predictions=4, **options).n_new == 12
    predictions = read_predictions(store)
    for _, view in predictions.groupby(["task_id", "test_index", "augmentation"]):
        best = view.sort_values("sample_index")["cumulative_logprob"]
        assert list(view["sample_index"].sort_values()) == [0, 1]
        assert best.is_monotonic_decreasing
    again = generate_predictions(tasks, engine, n_predictions=4, **options)
    assert again.n_new == 0


def test_a_threshold_search_gives_the_same_on_both_engines(
    vllm_engine, transformers_engine, prompts
):
    pairs = [
        threshold_search(e, prompts[:4], min_probability=0.01, max_tokens=6)
        for e in (vllm_engine, transformers_engine)
    ]
    for ours, theirs in zip(*pairs):
        assert {c.text for c in ours.completions} == {c.text for c in theirs.completions}
        assert (ours.mass, ours.cut) == pytest.approx((theirs.mass, theirs.cut), abs=1e-3)
        assert sum(math.exp(c.cumulative_logprob) for c in ours.completions) == pytest.approx(
            ours.mass + ours.cut
        )


def test_a_reply_holds_nothing_but_the_allowed_tokens(engine, prompts):
    allowed = engine.tokenizer.convert_tokens_to_ids(["0a", "7b", "<end>"])
    for sampling in (
        Sampling(max_tokens=6, allowed_tokens=allowed),
        Sampling(n=2, temperature=2.0, seed=0, max_tokens=6, allowed_tokens=allowed),
    ):
        for prompt, replies in zip(prompts, engine.generate(prompts, sampling)):
            for reply in replies:
                assert reply.text.replace("0a", "").replace("7b", "") == ""
                end = "<end>" if reply.finish_reason == "stop" else ""
                # Under the model's own distribution, not the restricted one.
                (score,) = engine.score([prompt], [reply.text + end])
                assert score == pytest.approx(reply.cumulative_logprob, abs=5e-3)


def test_answers_are_made_of_answer_tokens(transformers_engine, training_tasks):
    engine = transformers_engine
    allowed = answer_tokens(engine)
    names = set(engine.tokenizer.convert_ids_to_tokens(allowed))
    assert not names & {"<pad>", "<in>", "<out>"}
    for task in list(training_tasks.values())[:50]:
        view = Augmentation(rot90=1, colors="1234567890").apply_task(task)
        for pair in view.train:
            answer = engine.prompt_format.render_answer(pair.output)
            assert set(engine.encode([answer])[0]) <= set(allowed)


# The rest ----------------------------------------------------------------------------------------


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
    is_half = choose_dtype(capability, is_quantized=True) != "float32"
    assert is_half  # no kernel multiplies quantized weights in float32


def test_a_nan_logprob_is_reported_and_not_kept():
    with pytest.warns(UserWarning, match="nan"):
        assert checked_logprob(math.nan) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checked_logprob(-1.5) == -1.5


def test_older_stores_can_be_gone_on_with():
    old = {"n", "temperature", "top_p", "seed", "stop"}
    assert set(Sampling().settings()) == old
    assert set(Sampling(beam_width=2).settings()) == old | {"beam_width"}


@pytest.mark.parametrize(
    "options",
    [{"n": 0}, {"n": 2}, {"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}],
)
def test_sampling_refuses_what_makes_no_sense(options):
    with pytest.raises(ValueError):
        Sampling(**options)


def test_many_long_prompts_may_be_sampled_with_seeds(vllm_engine, training_tasks):
    """vLLM 0.32 crashes on a CPU if it prefills a prompt with a seed in chunks."""
    render = PromptFormat.load(vllm_engine.model).render
    task = training_tasks["a85d4709"]
    views = [a.apply_task(task) for a in sample_augmentations(task, 60, seed=0)]
    prompts = [2 * render(view) for view in views]
    sampling = Sampling(n=4, temperature=1.0, seed=0, max_tokens=2)
    assert all(len(replies) == 4 for replies in vllm_engine.generate(prompts, sampling))
