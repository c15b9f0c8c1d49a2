"""Searches: beams and thresholds against the enumeration of every reply of a tiny vocabulary."""

import itertools
import math
from dataclasses import replace

import pytest

from arc_airv.engines import Sampling, TransformersEngine, threshold_search
from arc_airv.engines.kv_cache import CachedRows
from arc_airv.engines.search import BeamSearch
from arc_airv.engines.threshold import ThresholdSearch

torch = pytest.importorskip("torch")

LETTERS = "abc"
PROMPTS = ["abcab", "c", "bbacbca"]
LONGEST = 4


@pytest.fixture(scope="module")
def tiny_engine(tmp_path_factory):
    """Make a random model of three letters and an end-of-text token, in float64."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from arc_airv.training.tiny import build_model

    words = ["<end>", *LETTERS]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<end>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"<end>|\w"), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", pad_token="<end>", unk_token="<end>"
    )
    torch.manual_seed(1)
    model = build_model(tokenizer, width=16, layers=1, heads=2, context=64)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(8)
    folder = tmp_path_factory.mktemp("letters")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TransformersEngine(str(folder), dtype="float64")


def logprob(engine, prompt, reply):
    """Return the log-probability of a reply by one forward pass."""
    ids = engine.encode([prompt])[0]
    tokens = engine.tokenizer.encode(reply, add_special_tokens=False)
    with torch.inference_mode():
        logits = engine.network(torch.tensor([ids + tokens])).logits[0].double()
    rows = logits.log_softmax(-1)[len(ids) - 1 : -1]
    return sum(row[token].item() for row, token in zip(rows, tokens))


@pytest.fixture(scope="module")
def every_reply(tiny_engine):
    """Return {(text, finish reason): log-probability} of all replies per prompt, best first."""
    texts = ["".join(t) for n in range(LONGEST + 1) for t in itertools.product(LETTERS, repeat=n)]
    tables = {}
    for prompt in PROMPTS:
        table = {(t, "stop"): logprob(tiny_engine, prompt, t + "<end>") for t in texts
                 if len(t) < LONGEST}  # fmt: skip
        table |= {(t, "length"): logprob(tiny_engine, prompt, t) for t in texts
                  if len(t) == LONGEST}  # fmt: skip
        assert sum(map(math.exp, table.values())) == pytest.approx(1)
        tables[prompt] = dict(sorted(table.items(), key=lambda item: -item[1]))
    return tables


def never(tokens, stop):
    return False


def found(completions):
    return {(c.text, c.finish_reason): c.cumulative_logprob for c in completions}


# Beams -------------------------------------------------------------------------------------------


def test_a_beam_as_wide_as_there_are_replies_finds_them_all_in_order(tiny_engine, every_reply):
    for prompt, beams in zip(PROMPTS, tiny_engine.beam_search(PROMPTS, 121, LONGEST)):
        table = every_reply[prompt]
        assert list(found(beams)) == list(table)
        assert found(beams) == pytest.approx(table, abs=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
def test_beams_are_those_of_the_transformers_library(tiny_engine, width):
    for prompt, beams in zip(PROMPTS, tiny_engine.beam_search(PROMPTS, width, 7)):
        ids = torch.tensor(tiny_engine.encode([prompt]))
        theirs = tiny_engine.network.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=width,
            num_return_sequences=width, max_new_tokens=7, length_penalty=0.0,
            early_stopping="never",
        )[:, ids.shape[1] :]  # fmt: skip
        texts = tiny_engine.tokenizer.batch_decode(theirs, skip_special_tokens=True)
        assert [beam.text for beam in beams] == texts


def test_a_beam_of_width_1_is_greedy(tiny_engine):
    greedy = tiny_engine.generate(PROMPTS, Sampling(max_tokens=9))
    for (a,), (b,) in zip(tiny_engine.beam_search(PROMPTS, 1, 9), greedy):
        assert (a.text, a.n_tokens, a.finish_reason) == (b.text, b.n_tokens, b.finish_reason)
        assert a.cumulative_logprob == pytest.approx(b.cumulative_logprob, abs=1e-6)


def test_a_stop_string_ends_a_beam(tiny_engine):
    for beams in tiny_engine.beam_search(PROMPTS, 200, LONGEST, stop=["ab"]):
        assert any(beam.text.endswith("ab") and beam.n_tokens < LONGEST for beam in beams)
        for beam in beams:
            assert "ab" not in beam.text[:-2]
            assert (beam.finish_reason == "stop") == (
                beam.text.endswith("ab") or beam.n_tokens > len(beam.text)
            )
        assert sum(math.exp(b.cumulative_logprob) for b in beams) == pytest.approx(1, abs=1e-5)


def test_each_prompt_has_its_own_longest_reply(tiny_engine):
    sampling = Sampling(n=3, beam_width=4)
    requests = [(p, replace(sampling, max_tokens=n)) for p, n in zip(PROMPTS, (2, 5, 3))]
    replies = dict(itertools.chain.from_iterable(tiny_engine.stream(requests)))
    for i, (prompt, own) in enumerate(requests):
        alone = tiny_engine.beam_search([prompt], 4, own.max_tokens)[0]
        assert [c.text for c in replies[i]] == [c.text for c in alone[:3]]
        assert max(c.n_tokens for c in replies[i]) <= own.max_tokens


@pytest.mark.parametrize("batch_tokens", [1, 30, 200])
@pytest.mark.parametrize("room", [1, 3, 64])
def test_replies_do_not_depend_on_batches_and_room(tiny_engine, monkeypatch, batch_tokens, room):
    prompts = [*PROMPTS, "cab", "bbbb"]
    sampling = Sampling(max_tokens=9)
    threshold = {"min_probability": 0.002, "max_tokens": 7}
    engine = TransformersEngine(
        tiny_engine.network, tokenizer=tiny_engine.tokenizer, batch_tokens=batch_tokens
    )
    alone = [
        (tiny_engine.generate([p], sampling), tiny_engine.beam_search([p], 5, 9),
         threshold_search(tiny_engine, [p], **threshold))
        for p in prompts
    ]  # fmt: skip
    monkeypatch.setattr("arc_airv.engines.kv_cache.ROOM", room)
    greedy = engine.generate(prompts, sampling)
    beams = engine.beam_search(prompts, 5, 9)
    results = threshold_search(engine, prompts, **threshold)
    for i, ((reply,), (few,), (result,)) in enumerate(alone):
        assert found(greedy[i]) == pytest.approx(found(reply), abs=1e-5)
        assert list(found(beams[i])) == list(found(few))
        assert found(beams[i]) == pytest.approx(found(few), abs=1e-5)
        assert found(results[i].completions) == pytest.approx(found(result.completions), abs=1e-5)
        assert results[i].mass == pytest.approx(result.mass)
        assert results[i].cut == pytest.approx(result.cut)


def test_no_batch_of_searches_is_larger_than_it_may_be(tiny_engine, monkeypatch):
    engine = TransformersEngine(
        tiny_engine.network, tokenizer=tiny_engine.tokenizer, batch_tokens=150
    )
    sizes = []

    def forward(self, ids, mask, *rest, **options):
        sizes.append((len(ids), mask.shape[1]))
        return own(self, ids, mask, *rest, **options)

    own = CachedRows._forward
    monkeypatch.setattr(CachedRows, "_forward", forward)
    prompts = ["abcabcabcabcabcabcab", *"abcba"]  # the long one pads the others
    engine.beam_search(prompts, 4, 9)
    threshold_search(engine, prompts, min_probability=0.2, max_tokens=7)
    assert max(rows * columns for rows, columns in sizes) <= 150
    assert max(rows for rows, _ in sizes) > 4  # several searches run together


def test_a_search_ends_when_nothing_can_change_any_more():
    def is_over(tokens, stop):
        return tokens[-1] == 0

    search = BeamSearch([0], 1000, width=2)
    search.advance([[(1, math.log(0.6)), (0, math.log(0.3)), (2, math.log(0.1))]], is_over)
    assert [p.tokens for p in search.live] == [(1,), (2,)]
    search.advance([[(0, math.log(0.9)), (1, math.log(0.1))], [(0, math.log(0.5))]], is_over)
    assert search.live == []
    assert [p.tokens for p in search.replies()] == [(1, 0), (0,)]


def test_an_overflowing_model_ends_a_search_without_a_probability(tiny_engine):
    search = BeamSearch([0], 2, width=1)
    search.advance([[(1, math.nan), (2, math.nan)]], never)
    search.advance([[(1, math.nan), (2, math.nan)]], never)
    with pytest.warns(UserWarning, match="nan"):
        (completion,) = tiny_engine.completions(search)
    assert completion.cumulative_logprob is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 3, "beam_width": 2}, "beam_width of at least n"),
        ({"beam_width": 2, "temperature": 0.5}, "takes no temperature"),
        ({"beam_width": 2, "allowed_tokens": (1,)}, "no temperature, allowed_tokens"),
        ({"allowed_tokens": ()}, "nothing could be written"),
        ({"n": 2}, "set a temperature or a beam_width"),
    ],
)
def test_a_sampling_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


# Thresholds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.3, 0.1, 0.03, 0.004, 1e-6])
def test_a_threshold_finds_every_reply_above_it(tiny_engine, every_reply, p):
    results = threshold_search(
        tiny_engine, PROMPTS, min_probability=p, max_tokens=LONGEST, max_live=1000
    )
    for prompt, result in zip(PROMPTS, results):
        table = {k: v for k, v in every_reply[prompt].items() if math.exp(v) >= p}
        assert list(found(result.completions)) == list(table)
        assert found(result.completions) == pytest.approx(table, abs=1e-5)
        mass = {end: sum(math.exp(v) for (_, e), v in table.items() if e == end)
                for end in ("stop", "length")}  # fmt: skip
        assert result.mass == pytest.approx(mass["stop"], abs=1e-5)
        assert result.cut == pytest.approx(mass["length"], abs=1e-5)
        assert result.dropped == 0


def test_the_budget_keeps_the_most_probable_and_says_what_it_dropped(tiny_engine):
    options = {"min_probability": 1e-5, "max_tokens": LONGEST}
    for prompt in PROMPTS:
        (small,) = threshold_search(tiny_engine, [prompt], max_live=2, **options)
        (whole,) = threshold_search(tiny_engine, [prompt], max_live=1000, **options)
        assert small.dropped > 0
        assert small.mass + small.cut + small.dropped == pytest.approx(1, abs=1e-3)
        assert found(small.completions).keys() < found(whole.completions).keys()


def test_no_more_prefixes_are_live_than_the_threshold_allows():
    search = ThresholdSearch([0], 9, min_probability=0.2, max_live=64)
    assert search.n_next == 5
    search.advance([[(t, math.log(0.25)) for t in range(4)]], never)
    assert len(search.live) == 4
    assert search.n_next == 1
    search.advance([[(0, math.log(0.7)), (1, math.log(0.3))]] * 4, never)
    assert not search.live and not search.replies()


@pytest.mark.parametrize(
    "options",
    [{"min_probability": 0}, {"min_probability": 1.1}, {"max_tokens": 0}, {"max_live": 0}],
)
def test_a_threshold_out_of_range_is_refused(tiny_engine, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.* got"):
        threshold_search(
            tiny_engine, PROMPTS, **{"min_probability": 0.5, "max_tokens": 3, **options}
        )
