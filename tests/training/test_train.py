"""Training: what enters the loss and what does not, and stopping and resuming a run."""

import gzip
import json
import shutil
from dataclasses import replace

import pytest

from arc_airv.augment import sample_augmentations
from arc_airv.prompts.format import PromptFormat
from arc_airv.tasks import load_tasks
from arc_airv.training.examples import (
    IGNORED,
    ExampleStream,
    Source,
    all_pairs,
    demonstrations,
    load_pairs,
)
from arc_airv.training.tiny import (
    build_model,
    build_tokenizer,
    factor_embeddings,
    plain_copy,
    tiny_prompt_format,
)

torch = pytest.importorskip("torch")

from arc_airv.training.muon import orthogonalize  # noqa: E402
from arc_airv.training.train import TrainConfig, train  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def stream(training_tasks, tokenizer):
    tasks = dict(list(training_tasks.items())[:40])
    source = Source("training", all_pairs(tasks))
    return ExampleStream([source], tiny_prompt_format(), tokenizer, max_tokens=300, seed=0)


def test_the_face_of_the_room_gives_functions_and_classes_and_no_module_of_their_name():
    from arc_airv import training

    assert all(callable(getattr(training, name)) for name in training.__all__)


def test_every_prompt_is_one_token_a_cell_and_a_row(training_tasks, tokenizer):
    render = tiny_prompt_format().render
    for task in training_tasks.values():
        view = sample_augmentations(task, 2, seed=0)[1].apply_task(task)
        ids = tokenizer.encode(render(view), add_special_tokens=False)
        grids = [g for p in view.train for g in (p.input, p.output)] + [view.test[0].input]
        cells = sum(g.size + g.shape[0] for g in grids)
        assert len(ids) == cells + 3 * len(view.train) + 2
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == render(view)


def test_the_loss_is_on_every_answer_after_the_first(stream):
    view = load_tasks("arc-agi-1/training")["3c9b0459"]
    example = stream.encode(view)
    answers = [i for i, label in enumerate(example.labels) if label != IGNORED]
    text = stream.tokenizer.decode([example.token_ids[i] for i in answers])
    outputs = [*view.train[1:], view.test[0]]
    assert text == "".join(stream.format.render_answer(pair.output) for pair in outputs)
    assert stream.tokenizer.decode(example.token_ids) == (
        stream.format.render(view) + stream.format.render_answer(view.test[0].output)
    )


def test_demonstrations_hold_no_test_pair():
    tasks = load_tasks("arc-agi-1/evaluation")
    for task_id, pairs in demonstrations(tasks).items():
        assert not set(pairs) & set(tasks[task_id].test)


def test_a_stream_is_the_same_from_any_position(stream):
    assert [stream[i] for i in (5, 3)] == [stream[i] for i in (5, 3)]
    assert len({stream[i].token_ids for i in range(20)}) == 20
    assert all(len(stream[i].token_ids) <= 300 for i in range(50))


def test_extra_pairs_are_read_and_a_broken_line_is_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"task_id": "a", "pairs": [["01|10", "1"]]}\n')
    assert load_pairs(path)["a"][0].output.tolist() == [[1]]
    for fault, message in (
        ('{"task_id": "a", "pairs": [["01|1", "1"]]}', ".*ragged"),
        ('{"pairs": [["1", "1"]]}', "there is no 'task_id'"),
        ('{"task_id": ["a"], "pairs": [["1", "1"]]}', ".*unhashable"),
        ('{"task_id": "a", "pairs": [["1", "1"', "Expecting"),
    ):
        path.write_text(f'{{"task_id": "b", "pairs": []}}\n{fault}\n')
        with pytest.raises(ValueError, match=f"pairs.jsonl: line 2: {message}"):
            load_pairs(path)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"task_id": "a", "pairs": []}\n' * 9)[:-9])
    with pytest.raises(ValueError, match=r"cut.jsonl.gz: line \d: Compressed file ended"):
        load_pairs(cut)


def test_a_source_without_two_fitting_pairs_is_an_error(training_tasks, tokenizer):
    source = Source("large", all_pairs({"00d62c1b": training_tasks["00d62c1b"]}))
    with pytest.raises(ValueError, match="large: no two pairs of a task fit within max_tokens=100"):
        ExampleStream([source], tiny_prompt_format(), tokenizer, max_tokens=100)


def test_training_lowers_the_loss_and_leaves_a_model_folder(stream, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    Steps(monkeypatch)
    torch.manual_seed(0)
    model = build_model(stream.tokenizer, width=64, layers=2, heads=2)
    train(model, stream, config(seconds=15, batch_tokens=1024, log_every=5), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    assert lines[-1]["tokens"] > 0 and lines[-1]["tokens_per_second"] > 0
    assert PromptFormat.load(tmp_path) == tiny_prompt_format()
    ids = AutoTokenizer.from_pretrained(tmp_path).encode("<in>1 5a\n2 0a<out>")
    assert len(ids) == 6
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded(torch.tensor([ids])).logits, model.eval()(torch.tensor([ids])).logits
        )


def test_factored_embeddings_save_as_an_ordinary_model(tokenizer):
    model = factor_embeddings(build_model(tokenizer, width=32, layers=1, heads=1), tokenizer)
    embedding = model.get_input_embeddings().weight
    tokens = tokenizer.convert_tokens_to_ids
    step = embedding[tokens("5a")] - embedding[tokens("5b")]
    torch.testing.assert_close(step, embedding[tokens("7a")] - embedding[tokens("7b")])
    ids = torch.tensor([tokenizer.encode("<in>1 5a7b<out>")])
    plain = plain_copy(model)
    torch.testing.assert_close(plain(ids).logits, model(ids).logits)
    assert plain.get_input_embeddings().weight is plain.get_output_embeddings().weight


def assert_same_weights(one, other):
    for a, b in zip(one.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def small_model(tokenizer):
    torch.manual_seed(0)
    return build_model(tokenizer, width=32, layers=1, heads=1)


def config(**options):
    return TrainConfig(**{"batch_tokens": 512, "window": 64, "warmup": 0, "decay": 0, **options})


class Steps:
    """Tick the clock at each reading, so that a budget of seconds is a number of steps."""

    def __init__(self, monkeypatch):
        ticks = iter(range(10**9))
        monkeypatch.setattr("arc_airv.training.train.time.monotonic", lambda: next(ticks))


def test_training_resumes_from_its_checkpoint(stream, tmp_path, monkeypatch):
    Steps(monkeypatch)
    first = train(small_model(stream.tokenizer), stream, config(seconds=10), tmp_path)
    second = train(small_model(stream.tokenizer), stream, config(seconds=30), tmp_path)
    assert (first["step"], second["step"]) == (10, 30)
    assert second["seconds"] == 30
    assert second["loss"] < first["loss"]


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"muon_lr": None}])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_ends_with_the_weights_of_one_that_did_not_stop(
    stream, tmp_path, monkeypatch, options, dropout
):
    Steps(monkeypatch)

    def run(seconds, folder):
        model = small_model(stream.tokenizer)  # as in a new process
        model.model.layers[0].self_attn.attention_dropout = dropout
        line = train(model, stream, config(seconds=seconds, **options), tmp_path / folder)
        assert line["step"] == seconds
        return model

    whole = run(7, "whole")
    run(3, "parts")
    parts = run(7, "parts")
    assert_same_weights(whole, parts)


def test_compiled_layers_are_compiled_before_training_only_and_resume_exactly(
    stream, tmp_path, monkeypatch
):
    """One graph serves all layers and shapes, and attention gets no mask: flash attention."""
    Steps(monkeypatch)
    masks = []

    def run(seconds, folder):
        model = build_model(stream.tokenizer, width=32, layers=2, heads=1)
        torch.manual_seed(0)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.02)
        model.model.layers[0].register_forward_pre_hook(
            lambda layer, args, options: masks.append(options["attention_mask"]), with_kwargs=True
        )
        options = config(seconds=seconds, compile=True, window=64)
        line = train(model, stream, options, tmp_path / folder)
        assert line["step"] == seconds
        assert line["recompiled"] == 0
        return model

    whole = run(5, "whole")
    run(2, "parts")
    parts = run(5, "parts")
    assert_same_weights(whole, parts)
    assert masks and set(masks) == {None}
    first = json.loads((tmp_path / "whole/train_log.jsonl").read_text().splitlines()[0])
    assert 1 <= first["graphs"] <= 8  # of a CPU, whose code depends on the size; a GPU has two
    assert whole.model.layers[0]._compiled_call_impl is None  # as it came


def test_an_end_that_moves_moves_the_schedule(monkeypatch):
    """The rest of the schedule is spread over the time that is left."""
    from arc_airv.training.train import _progress

    monkeypatch.setattr("arc_airv.training.train.time.time", lambda: 1000.0)
    state = {"seconds": 30.0, "tokens": 50}

    def progress(end, **options):
        return _progress(config(**{"seconds": 300.0, **options}), state, end)

    assert progress(float("inf")) == 0.1
    assert progress(1030.0) == 0.5
    assert progress(1010.0) == 0.75
    assert progress(1000.0) == progress(990.0) == 1.0
    assert progress(1030.0, tokens=80) == 0.625  # the budget of tokens is used up more


def test_every_checkpoint_is_told_with_the_model_and_the_line(stream, tmp_path, monkeypatch):
    Steps(monkeypatch)
    steps = []
    train(
        small_model(stream.tokenizer),
        stream,
        config(seconds=6, window=16, checkpoint_every=3),
        tmp_path,
        saved=lambda model, line: steps.append((model.training, line.get("step"))),
    )
    assert [training for training, _ in steps] == [False] * len(steps)
    assert steps[-1] == (False, 6) and len(steps) >= 2


def test_the_factors_of_the_embeddings_are_the_same_in_every_process(tokenizer):
    """Ignore the order of the tokenizer's vocabulary, which differs between processes."""

    class Reordered:
        def __init__(self, descending):
            words = sorted(tokenizer.get_vocab().items(), reverse=descending)
            self.get_vocab = lambda: dict(words)

        def __len__(self):
            return len(tokenizer)

    def mixing(tokenizer_of_a_process):
        model = factor_embeddings(small_model(tokenizer), tokenizer_of_a_process)
        return model.get_input_embeddings().parametrizations.weight[0].mixing

    assert torch.equal(mixing(Reordered(False)), mixing(Reordered(True)))


def test_accumulated_batches_are_one_large_batch(stream):
    """Give every label the same weight in the gradient, whatever batch it is in."""
    from arc_airv.training.batches import Windows
    from arc_airv.training.train import backward

    model = small_model(stream.tokenizer)
    step = Windows(stream, batch_tokens=512, examples=32)[0][:2]
    backward(model, step, torch.device("cpu"))
    accumulated = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    total = sum(batch.n_labels for batch in step)
    for batch in step:
        ids, labels = (
            torch.tensor(array, dtype=torch.long) for array in (batch.token_ids, batch.labels)
        )
        (model(input_ids=ids, labels=labels).loss * batch.n_labels / total).backward()
    for p, gradient in zip(model.parameters(), accumulated):
        scale = gradient.abs().max()  # one is in bfloat16, the other in float32
        torch.testing.assert_close(p.grad / scale, gradient / scale, rtol=0, atol=0.03)


def test_what_is_measured_is_saved_and_logged(stream, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    Steps(monkeypatch)
    model, seen = small_model(stream.tokenizer), []

    def measure(model):
        seen.append(model.lm_head.weight.detach().clone())
        return {"held_out_loss": 1.5}

    line = train(model, stream, config(seconds=5), tmp_path, measure=measure)
    assert line["held_out_loss"] == 1.5
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32").lm_head.weight
    torch.testing.assert_close(saved, seen[-1])
    assert torch.equal(saved, model.lm_head.weight)
    lines = (tmp_path / "train_log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == {"step": 5, "held_out_loss": 1.5}


def test_a_checkpoint_of_another_model_is_refused(stream, tmp_path):
    train(small_model(stream.tokenizer), stream, config(seconds=0.1), tmp_path)
    other = build_model(stream.tokenizer, width=32, layers=2, heads=1)
    with pytest.raises(ValueError, match="checkpoint of another model"):
        train(other, stream, config(seconds=1), tmp_path)


@pytest.mark.parametrize("changed", ["data", "seed", "max_tokens", "batch_tokens", "muon_lr"])
def test_a_checkpoint_of_other_data_or_options_is_refused(
    stream, training_tasks, tokenizer, tmp_path, changed
):
    options = {"model": small_model(tokenizer), "stream": stream, "config": config(seconds=0.1)}
    train(**options, folder=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    pairs = dict(list(stream.sources[0].pairs.items())[changed == "data" :])
    settings = {"max_tokens": 300 - (changed == "max_tokens"), "seed": int(changed == "seed")}
    other = ExampleStream([Source("", pairs)], tiny_prompt_format(), tokenizer, **settings)
    longer = config(
        seconds=9,
        batch_tokens=512 + (changed == "batch_tokens"),
        muon_lr=None if changed == "muon_lr" else 0.02,
    )
    with pytest.raises(ValueError, match=f"checkpoint.pt was made with .*: {changed}: [^;]*$"):
        train(small_model(tokenizer), other, longer, tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_of_another_base_is_refused(stream, tmp_path):
    """The weights of a checkpoint do not tell the model that an adapter was trained on."""
    train(small_model(stream.tokenizer), stream, config(seconds=0.1), tmp_path, base="one")
    with pytest.raises(ValueError, match="model: 'one', now 'two'. Use another folder, or the sam"):
        train(small_model(stream.tokenizer), stream, config(seconds=1), tmp_path, base="two")


def test_what_looks_on_may_draw_numbers_that_training_does_not_miss(stream, tmp_path, monkeypatch):
    """A killed run, whose dropout goes on from the checkpoint, is the same as another."""
    Steps(monkeypatch)

    def run(saved):
        model = small_model(stream.tokenizer)
        model.model.layers[0].self_attn.attention_dropout = 0.5
        options = config(seconds=30, tokens=4e3, checkpoint_every=2)
        train(model, stream, options, tmp_path / str(saved), saved=saved)
        return model

    assert_same_weights(run(None), run(lambda model, line: torch.rand(3)))


def test_what_was_logged_after_the_checkpoint_comes_again_once(stream, tmp_path, monkeypatch):
    Steps(monkeypatch)

    def steps():
        texts = (tmp_path / "train_log.jsonl").read_text().splitlines()
        return [json.loads(text)["step"] for text in texts]

    logged = {"log_every": 1, "checkpoint_every": 1e9}
    train(small_model(stream.tokenizer), stream, config(seconds=3, **logged), tmp_path)
    with open(tmp_path / "train_log.jsonl", "a") as file:  # as a kill may leave it
        file.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    line = train(small_model(stream.tokenizer), stream, config(seconds=5, **logged), tmp_path)
    assert steps() == [1, 2, 3, 4, 5]
    # Called once more, there is nothing to do, and the last line is the same.
    again = train(small_model(stream.tokenizer), stream, config(seconds=5, **logged), tmp_path)
    assert again == line and steps() == [1, 2, 3, 4, 5]


def test_a_training_that_diverges_says_so_and_keeps_the_last_checkpoint(stream, tmp_path):
    from arc_airv.training.train import Diverged

    model = small_model(stream.tokenizer)
    train(model, stream, config(seconds=0.1), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    handle = model.lm_head.register_forward_hook(lambda layer, inputs, logits: logits * torch.nan)
    with pytest.raises(Diverged, match="the loss is nan at step"):
        train(model, stream, config(seconds=1), tmp_path)
    handle.remove()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_run_of_several_gpus_resumes_on_one(stream, tmp_path, monkeypatch):
    train(small_model(stream.tokenizer), stream, config(seconds=0.1), tmp_path)
    content, put_back = torch.load(tmp_path / "checkpoint.pt"), []
    torch.save({**content, "cuda_random": ["one", "two"]}, tmp_path / "checkpoint.pt")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.set_rng_state_all", put_back.append)
    monkeypatch.setattr("torch.cuda.get_rng_state_all", lambda: [])
    train(small_model(stream.tokenizer), stream, config(seconds=0.2), tmp_path)
    assert put_back == [["one"]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_no_token_sees_those_after_it_whatever_computes_attention(stream, attention):
    from arc_airv.training.train import causal_mask

    model = small_model(stream.tokenizer)
    model.set_attn_implementation(attention)
    ids = torch.tensor([[1, 40, 50, 2, 60]])
    changed = ids.clone()
    changed[0, -1] = 70
    one, other = (model(input_ids=i, **causal_mask(model.config)).logits for i in (ids, changed))
    torch.testing.assert_close(one[:, :-1], other[:, :-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"batch_tokens": 2e3}, "batch_tokens must be an integer, got 2000.0"),
        ({"decay": 1.5}, "decay must be 0 to 1, got 1.5"),
        ({"adamw_lr": float("nan")}, "adamw_lr must be a finite number from 0 on, got nan"),
        ({"seconds": float("nan")}, "a budget must be above 0, got nan seconds and inf tokens"),
        ({"tokens": 0}, "a budget must be above 0"),
    ],
)
def test_a_mistaken_option_is_one_sentence(options, message):
    """A window of no examples would wait for a batch for ever."""
    with pytest.raises(ValueError, match=message):
        replace(TrainConfig(seconds=1), **options)


def test_a_tokenizer_that_loses_the_grids_is_refused(random_model, tmp_path):
    from arc_airv.training.train import load_model

    model = shutil.copytree(random_model, tmp_path / "model")
    words = (model / "tokenizer.json").read_text()
    (model / "tokenizer.json").write_text(words.replace('"0a"', '"?a"').replace('"1a"', '"!a"'))
    with pytest.raises(ValueError, match="does not tell the colours of a grid apart, such as '1 0"):
        load_model(model)


def test_the_log_tells_speed_and_padding(stream, tmp_path):
    line = train(small_model(stream.tokenizer), stream, config(seconds=1), tmp_path)
    assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["seconds"], rel=0.1)
    assert 0 <= line["padding"] < 0.15
    assert "mfu" not in line  # the peak speed of a CPU is unknown


def test_the_schedule_rises_stays_and_falls():
    config = TrainConfig(seconds=1, warmup=0.1, decay=0.5)
    rates = [config.learning_rate(p) for p in (0, 0.05, 0.1, 0.5, 0.75, 1)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 0.5, 0])


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 16), (2, 16, 40)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).float())
    assert values.min() > 0.3 and values.max() < 1.3


def test_held_out_tasks_are_measured_by_loss_and_by_exact_answers(stream, training_tasks):
    from arc_airv.training.heldout import HeldOut

    ids = ("3c9b0459", "00d62c1b")  # the second does not fit
    measure = HeldOut({task_id: training_tasks[task_id] for task_id in ids}, stream)
    assert list(measure.tasks) == ["3c9b0459"]
    model = small_model(stream.tokenizer).eval()
    example = stream.encode(training_tasks["3c9b0459"])
    ids, labels = (torch.tensor([x]) for x in (example.token_ids, example.labels))
    assert measure(model) == {
        "held_out_loss": pytest.approx(model(input_ids=ids, labels=labels).loss.item(), abs=1e-4),
        "held_out_exact": 0.0,
    }
    parrot = Parrot(model, example.token_ids)
    assert measure._exact(parrot) == 1.0
    with pytest.raises(ValueError, match="no held-out task fits 300"):
        HeldOut({"00d62c1b": training_tasks["00d62c1b"]}, stream)


class Parrot(torch.nn.Module):
    """Continue every prompt with one known text."""

    def __init__(self, model, token_ids):
        super().__init__()
        self.token_ids = token_ids
        self.config, self.generation_config = model.config, model.generation_config
        self.device, self.dtype = model.device, model.dtype

    def forward(self, input_ids, position_ids=None, **options):
        from types import SimpleNamespace

        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1])[None]
        following = torch.tensor(self.token_ids + (0,))[position_ids[:, -1:] + 1]
        vocabulary = self.config.vocab_size
        return SimpleNamespace(logits=100.0 * torch.nn.functional.one_hot(following, vocabulary))


def test_with_rows_every_cell_is_one_token_that_says_where_it_stands(training_tasks):
    format = tiny_prompt_format(rows=True, task_ids=True)
    tokenizer = build_tokenizer(rows=True, task_ids=training_tasks)
    for task in list(training_tasks.values())[::10]:
        view = sample_augmentations(task, 2, seed=0)[1].apply_task(task)
        prompt = format.render(view)
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        grids = [g for p in view.train for g in (p.input, p.output)] + [view.test[0].input]
        assert len(ids) == 1 + sum(g.size for g in grids) + 3 * len(view.train) + 2
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == prompt
        answer = format.render_answer(view.test[0].output)
        assert (format.parse(answer, "stop").grid == view.test[0].output).all()
    assert tokenizer.encode("<unheard>", add_special_tokens=False) == [tokenizer.pad_token_id]
    assert len(tokenizer) == 4 + 9000 + len(training_tasks)


def test_the_vector_of_a_cell_with_a_row_is_the_sum_of_three():
    tokenizer = build_tokenizer(rows=True)
    model = build_model(tokenizer, width=32, layers=1, heads=1)
    embedding = factor_embeddings(model, tokenizer).get_input_embeddings().weight
    tokens = tokenizer.convert_tokens_to_ids
    step = embedding[tokens("5bc")] - embedding[tokens("5bd")]
    torch.testing.assert_close(step, embedding[tokens("7ec")] - embedding[tokens("7ed")])
    step = embedding[tokens("5bc")] - embedding[tokens("5ec")]
    torch.testing.assert_close(step, embedding[tokens("7bc")] - embedding[tokens("7ec")])
    assert not torch.allclose(embedding[tokens("0aa")], embedding[tokens("\n0ba")])


def test_a_task_that_is_known_by_its_id_needs_no_demonstration(training_tasks):
    """The loss is on the first answer, too; a task with a changed rule has no name."""
    ids = list(training_tasks)[:20]
    pairs = all_pairs({task_id: training_tasks[task_id] for task_id in ids})
    format, tokenizer = tiny_prompt_format(task_ids=True), build_tokenizer(task_ids=ids)

    def examples(n_pairs, rule_change=0.0):
        source = Source("training", pairs, rule_change=rule_change)
        options = {"max_tokens": 900, "n_pairs": n_pairs}
        stream = ExampleStream([source], format, tokenizer, **options)
        return [stream[i] for i in range(30)]

    answer = tokenizer.convert_tokens_to_ids("<out>")
    for example in examples((1, 1)):
        assert example.token_ids.count(answer) == 1
        first = example.token_ids.index(answer) + 1
        assert example.labels[first] == example.token_ids[first]
        assert tokenizer.decode([example.token_ids[0]])[1:-1] in ids
    for example in examples((1, 3), rule_change=1.0):
        named = example.token_ids[0] != tokenizer.pad_token_id
        assert named == (example.rule_change == "unchanged")
    with pytest.raises(
        ValueError, match=r"n_pairs must be \(least, most\) from 1 on, got \(0, 2\)"
    ):
        examples((0, 2))


def test_without_replacement_every_task_and_view_has_its_turn(training_tasks, tokenizer):
    pairs = all_pairs(dict(list(training_tasks.items())[:40]))
    sources = [Source("a", pairs, 3.0), Source("b", dict(list(pairs.items())[:7]), 1.0)]
    stream = ExampleStream(
        sources, tiny_prompt_format(), tokenizer, max_tokens=10_000, n_views=5, seed=1
    )
    turns = [stream.turn(i) for i in range(2048)]
    for source in stream.sources:
        own = [(task_id, view) for of, task_id, view in turns if of is source]
        assert len(own) == (1536 if source.name == "a" else 512)
        n = len(source.pairs)
        for start in range(0, len(own) - n, n):  # every task once before any twice
            assert {task_id for task_id, _ in own[start : start + n]} == set(source.pairs)
        for start in range(0, len(own) - 5 * n, 5 * n):  # every view of each, too
            assert len(set(own[start : start + 5 * n])) == 5 * n
    assert stream[1500] == stream[1500] != stream[1501]
    with pytest.raises(ValueError, match="n_views must be at least 1, got 0"):
        ExampleStream(sources, tiny_prompt_format(), tokenizer, max_tokens=300, n_views=0)
