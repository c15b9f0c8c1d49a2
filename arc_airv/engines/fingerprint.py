"""Fingerprints: what a model is by its content, whatever its folder is called.

Two models in folders of one name (every version folder on Kaggle is called "1") differ here, and
so does a model that was retrained in place; a copy, or the same folder moved, does not.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from arc_airv.engines.adapters import ADAPTER_FILE, base_of
from arc_airv.engines.model_folder import look_at_model, weight_files

N_PARTS, PART = 512, 4096  # of the weights: 2 MiB are read, of 60 GB as of 60 MB
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
NO_WEIGHTS = ("optimizer*", "scheduler*", "rng_state*", "training_args*", "scaler*", "checkpoint*")
TEXTS = (
    "config.json",
    "generation_config.json",
    ADAPTER_FILE,
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "tokenizer*",
    "*vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "params.json",
    "*.py",
)
# Options of engines that make another model of a folder's files.
OTHER_MODEL = (
    "tokenizer",
    "tokenizer_mode",
    "tokenizer_revision",
    "revision",
    "hf_overrides",
    "hf_config_path",
    "quantization",
    "load_format",
    "rope_scaling",
    "rope_theta",
    "kv_cache_dtype",
    "code_revision",
    "config_format",
    "override_generation_config",
)
# Of a configuration, what saving, loading and training change in the same model.
NO_MODEL = ("_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype",
            "torch_dtype", "use_cache")  # fmt: skip
IN_USE = ("padding", "truncation", "pad_token")  # the same of a tokenizer in memory


def fingerprint(model: str | Path) -> str | None:
    """Return 16 hexadecimal digits that tell the content of a model or adapter folder.

    They cover its configuration, tokenizer and code, and of the weight files the names, sizes and
    parts that are spread over them evenly. A name that is no folder is looked up among the models
    that Hugging Face's libraries have downloaded. None where there is no such model here.
    """
    folder = _folder_of(str(model))
    if folder is None:
        return None
    files = sorted(file for file in folder.iterdir() if file.is_file())
    weights = [file for file in files if _is_any(file, WEIGHTS) and not _is_any(file, NO_WEIGHTS)]
    if not weights:
        return None
    digest = hashlib.sha256()
    _add_texts(digest, files)
    step = max(PART, sum(file.stat().st_size for file in weights) // N_PARTS)
    for path in weights:
        size = path.stat().st_size
        digest.update(json.dumps([path.name, size]).encode())
        with open(path, "rb", buffering=0) as file:
            for start in [*range(0, size, step), max(0, size - PART)]:
                file.seek(start)
                digest.update(file.read(PART))
    return digest.hexdigest()[:16]


def model_fingerprint(model: str | Path, options: Mapping[str, Any] | None = None) -> str | None:
    """Return the same of all that answers for a model: an adapter is nothing without its base.

    None, too, where it is an adapter whose base is not here. Of an engine's `options`, those of
    `OTHER_MODEL` count: with one of them, another model answers from the same folder.
    """
    own = _with_base(model)
    changed = {name: (options or {}).get(name) for name in OTHER_MODEL}
    changed = {k: _content(v) for k, v in changed.items() if v not in (None, "auto", {})}
    if own is None or not changed:
        return own
    return hashlib.sha256(f"{own} {json.dumps(changed)}".encode()).hexdigest()[:16]


def _content(option: Any) -> str:
    """Return what tells the value of an option; of a folder or a tokenizer, its content."""
    if hasattr(option, "get_vocab"):
        core = getattr(option, "backend_tokenizer", None)
        rules = json.loads(core.to_str()) if hasattr(core, "to_str") else {}
        rules = {**rules, **getattr(option, "special_tokens_map", {})}
        told = [
            sorted(option.get_vocab().items()),
            {name: rule for name, rule in rules.items() if name not in IN_USE},
            getattr(option, "chat_template", None),
        ]
        return json.dumps(told, sort_keys=True, default=repr)
    if not isinstance(option, (str, Path)) or not Path(option).is_dir():
        return json.dumps(option, sort_keys=True, default=repr)
    digest = hashlib.sha256()
    _add_texts(digest, sorted(file for file in Path(option).iterdir() if file.is_file()))
    return digest.hexdigest()


def _with_base(model: str | Path) -> str | None:
    own = fingerprint(model)
    if own is None or not (Path(model) / ADAPTER_FILE).is_file():
        return own
    try:
        if weight_files(model):  # a whole model that was saved beside its adapter
            return own
        folder = look_at_model(model, has_tokenizer=True)
    except ValueError:
        return None
    base = fingerprint(folder.model)
    if base and base_of(model) not in (base, None):
        warnings.warn(
            f"{model} was trained on another model than its base {folder.model} is now (or on the "
            "same one before it was changed, as by quantization): train it again on this one",
            stacklevel=4,
        )
    return base and hashlib.sha256(f"{base} {own}".encode()).hexdigest()[:16]


def network_fingerprint(network: Any, tokenizer: Any) -> str:
    """Return the same of a network in memory and its tokenizer.

    They cover its configuration, the tokens that end a reply (of what it says of generation, an
    engine takes no more), and the names, shapes and parts of its tensors.
    """
    state = network.state_dict()
    ends = getattr(network.generation_config, "eos_token_id", None)  # it may be None itself
    config = json.loads(
        network.config.to_json_string(),
        object_hook=lambda fields: {k: v for k, v in fields.items() if k not in NO_MODEL},
    )
    ends = [] if ends is None else sorted(ends) if isinstance(ends, list) else [ends]
    told = [config, ends, _content(tokenizer)]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    n_each = max(1, N_PARTS * PART // 4 // max(1, len(state)))
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        flat = tensor.detach().reshape(-1)
        digest.update(flat[:: max(1, len(flat) // n_each)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _add_texts(digest: Any, files: list[Path]) -> None:
    for file in files:
        if _is_any(file, TEXTS):
            digest.update(json.dumps([file.name, file.stat().st_size]).encode())
            digest.update(file.read_bytes())


def _is_any(file: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(file.name, pattern) for pattern in patterns)


def _folder_of(model: str) -> Path | None:
    if not model:
        return None
    if Path(model).is_dir():
        return Path(model)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model, local_files_only=True))
    except Exception:  # not installed, no such name, nothing downloaded: each in its own words
        return None
