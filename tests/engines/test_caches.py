"""Networks of many kinds: each answers as without a cache, or is refused in a sentence."""

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from arc_airv.engines import Sampling, TransformersEngine  # noqa: E402
from arc_airv.training.tiny import build_tokenizer  # noqa: E402

SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
MOE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
# They keep the keys and values of each token, though some layers look at the last eight only.
SERVED = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "gpt_oss": {**MOE, "sliding_window": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "bloom": {"n_head": 4, "n_layer": 2},
}
# They keep a state instead, or beside.
REFUSED = {
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "n_groups": 1, "chunk_size": 8},
    "rwkv": {"attention_hidden_size": 32, "context_length": 512},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": {
        **MOE,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "jamba": {
        **MOE,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 8},
    "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def build(kind, options, tokenizer, scale=4):
    ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(kind, **{**SIZE, **ends, "vocab_size": len(tokenizer), **options})
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # far from uniform
        for p in network.parameters():
            if p.ndim >= 2:
                p.mul_(scale)
    return network


@pytest.mark.parametrize("kind", SERVED)
def test_a_plain_cache_answers_as_no_cache(kind, tokenizer):
    network = build(kind, SERVED[kind], tokenizer)
    engine = TransformersEngine(network, tokenizer=tokenizer)
    prompts = ["<in>" + "1 0a1b2c" * n + "<out>" for n in (4, 9)]
    replies = engine.generate(prompts, Sampling(max_tokens=8))
    for prompt, (reply,) in zip(prompts, replies):
        tokens, total = tokenizer.encode(prompt), 0.0
        for _ in range(reply.n_tokens):
            with torch.inference_mode():
                logits = network(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
            value, token = logits.log_softmax(-1).max(-1)
            total += value.item()
            tokens.append(token.item())
        written = tokens[-reply.n_tokens :]
        assert reply.text == tokenizer.decode(written, skip_special_tokens=True)
        assert reply.cumulative_logprob == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "scale"), [*((kind, 4) for kind in REFUSED), ("mamba2", 1), ("rwkv", 1)]
)
def test_another_kind_of_memory_is_refused(kind, scale, tokenizer):
    network = build(kind, REFUSED[kind], tokenizer, scale)
    with pytest.raises(ValueError, match="keeps no plain cache of keys and values.*VllmEngine$"):
        TransformersEngine(network, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", ["llama", "gpt_oss"])
def test_rounding_is_no_other_kind_of_memory(kind, tokenizer):
    network = build(kind, SERVED[kind], tokenizer).to(torch.bfloat16)
    TransformersEngine(network, tokenizer=tokenizer)


def test_a_model_in_memory_needs_its_tokenizer(tokenizer):
    with pytest.raises(ValueError, match="needs its tokenizer"):
        TransformersEngine(build("llama", {}, tokenizer))
