"""A look at a model folder before an engine is made: its parts, and the faults that end in a crash.

Reads small JSON files and the names and sizes of the others: no weights, and no library that loads
them. Each fault is one ValueError that says what to do.
"""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from arc_airv.engines.adapters import ADAPTER_FILE, named_base

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
    "*.tiktoken",
    "*.bpe.model",
    "spiece.model",
    "tokenization_*.py",
)
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
HUB_SECONDS = 10.0  # patience with the Hub, for one question
# Of an adapter: what changes its base, and the ways to start its matrices that do not.
CHANGES_BASE = ("modules_to_save", "trainable_token_indices", "layer_replication", "kasa_config")
KEEPS_BASE = ("gaussian", "orthogonal", "eva")
MOST_HEADER = 100_000_000  # bytes, by the definition of safetensors


@dataclass(frozen=True)
class ModelFolder:
    """The parts that were found in the place of a model.

    Attributes
    ----------
    given : str
        The folder, or the name on the Hugging Face Hub.
    model : str
        Where the weights are: `given`, or the base of the adapter that it is.
    adapter : str or None
        `given`, if it is the folder of a LoRA adapter.
    tokenizer : str
        The folder or name that the tokenizer is read from.
    config : mapping
        The content of ``config.json``; empty for a name on the Hub that is not in the cache.
    """

    given: str
    model: str
    adapter: str | None
    tokenizer: str
    config: Mapping[str, Any]

    @property
    def quantization(self) -> str | None:
        """The method by which the weights are quantized, such as "awq"; None for plain weights."""
        found = self.config.get("quantization_config") or self.config.get("compression_config")
        if not found:
            return None
        return str(found.get("quant_method") or "bitsandbytes")  # which alone left it out once


def look_at_model(model: str | Path, *, has_tokenizer: bool = False) -> ModelFolder:
    """Find the parts of a model, or say what is missing.

    Parameters
    ----------
    model : str or Path
        A folder, or a name on the Hugging Face Hub; the folder of a LoRA adapter stands for its
        base model with it.
    has_tokenizer : bool, default False
        The tokenizer comes from elsewhere.

    Raises
    ------
    ValueError
        If there is nothing of that name, it is no model folder, a file that it needs is missing or
        malformed, it is an adapter whose base is not here, or a whole model with an adapter in it.
    """
    given, folder = str(model), Path(model)
    if folder.is_file():
        raise ValueError(f"{given} is a file: give the folder of a model (a GGUF file is not read)")
    if not folder.is_dir():
        return ModelFolder(given, given, None, given, _look_on_hub(given))
    if (folder / ADAPTER_FILE).is_file() and not weight_files(folder):
        return _look_at_adapter(folder)
    if not (folder / "config.json").is_file():
        nested = sorted(str(path.parent) for path in folder.glob("*/**/config.json"))[:3]
        hint = f"; did you mean {' or '.join(nested)}?" if nested else ""
        raise ValueError(f"{given} is no model folder: it holds no config.json{hint}")
    if (folder / ADAPTER_FILE).is_file():
        # Transformers 5 adds the adapter to the weights, which may hold it already; vLLM does not.
        raise ValueError(
            f"{given} is a whole model with an adapter beside its weights: move {ADAPTER_FILE} and "
            "adapter_model.* into a folder of their own, and give that one instead if they are not "
            "merged into the weights yet"
        )
    config = _read(folder / "config.json")
    weights = weight_files(folder)
    if missing := [path.name for path in weights if not path.is_file()]:
        raise ValueError(
            f"{given} lacks {len(missing)} of its {len(weights)} files of weights: "
            f"{', '.join(missing[:3])}"
        )
    alone, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if alone.is_file() and index.is_file() and alone not in weights:
        # Transformers would load the first, and vLLM what the index names.
        raise ValueError(
            f"{given} holds two saves: {alone.name}, and {', '.join(p.name for p in weights[:3])} "
            f"of {index.name}: remove the files of the one that is not meant"
        )
    if not weights:
        raise ValueError(f"{given} holds no weights: neither *.safetensors nor pytorch_model*.bin")
    if not has_tokenizer and not _has_tokenizer(folder):
        raise ValueError(
            f"{given} holds no tokenizer (such as tokenizer.json): copy the tokenizer's files of "
            "the model that it was trained from into it, or into a copy of it"
        )
    _check_version(given, config)
    _warn_of_window(given, config)
    return ModelFolder(given, given, None, given, config)


def weight_files(folder: str | Path) -> list[Path]:
    """List the files that the weights of a model are loaded from: each weight is in one of them.

    Folders may hold them several times: as ``*.safetensors``, as ``pytorch_model*.bin``, and as
    ``consolidated*``. Where there is an index, it names the files, even those that are missing. An
    adapter folder, and a name that is no folder, has none.
    """
    folder = Path(folder)
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            named = _read(folder / index).get("weight_map")
            names = list(named.values()) if isinstance(named, dict) else []
            if not names or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{folder / index} names no files of weights")
            return [folder / name for name in sorted(set(names))]
    for pattern in ("model*.safetensors", "*.safetensors", "pytorch_model*.bin"):
        found = [
            path
            for path in sorted(folder.glob(pattern))
            if not path.name.startswith(("adapter_model", "consolidated"))
        ]
        if found:
            return found
    return sorted(folder.glob("consolidated*.safetensors"))


def gigabytes_of_weights(model: str | Path) -> float:
    """Return the size of the weights of a model folder (GiB); an adapter's are its base's.

    Of a folder that is not whole, what is there; 0.0 where nothing is known, as of a name.
    """
    try:
        folder = look_at_model(model, has_tokenizer=True).model if Path(model).is_dir() else model
    except ValueError:
        folder = model
    try:
        files = weight_files(folder)
    except ValueError:  # an index that names none
        return 0.0
    return sum(path.stat().st_size for path in files if path.is_file()) / 2**30


def read_adapter(folder: str | Path) -> dict[str, Any]:
    """Return the content of an adapter's ``adapter_config.json``; a ValueError if it has none."""
    path = Path(folder) / ADAPTER_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is no adapter: it holds no {ADAPTER_FILE}")
    return _read(path)


def adapter_rank(folder: str | Path) -> int:
    """Return the largest rank of a LoRA adapter's matrices."""
    config = read_adapter(folder)
    try:
        return max(int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values()), 1)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{folder} is no LoRA adapter: it names no rank r") from None


def check_lendable(folder: str | Path) -> None:
    """Raise a ValueError if an adapter leaves something in its base when it is taken out again.

    peft's unload() keeps all but LoRA matrices: whole modules and biases that were trained, tokens,
    embeddings, and what some ways to start an adapter (PiSSA, ...) take from the base's weights.
    """
    config, file = read_adapter(folder), Path(folder) / "adapter_model.safetensors"
    found = [name for name in CHANGES_BASE if config.get(name)]
    if config.get("bias", "none") != "none":
        found.append("bias")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in KEEPS_BASE:
        found.append(f"init_lora_weights={start}")
    if not found and file.is_file():
        found = sorted(name for name in _tensor_names(file) if "lora_" not in name)[:1]
    if found:
        raise ValueError(
            f"{folder} is more than LoRA matrices ({', '.join(found)}), which vLLM would leave out "
            "and peft would keep for the answers of other tasks: merge it into its base (peft's "
            "merge_and_unload) and give that folder as the model"
        )


def _tensor_names(file: Path) -> set[str]:
    """Return the names in the header of a safetensors file: its length, and JSON."""
    with open(file, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        try:
            return json.loads(opened.read(min(size, MOST_HEADER))).keys() - {"__metadata__"}
        except ValueError:
            raise ValueError(f"{file} is no safetensors file: copy it again") from None


def _look_at_adapter(folder: Path) -> ModelFolder:
    base = read_adapter(folder).get("base_model_name_or_path")
    advice = (
        "write the path of its base model into base_model_name_or_path of its adapter_config.json, "
        "or merge it into its base (peft's merge_and_unload) and give that folder"
    )
    if not base:
        raise ValueError(f"{folder} is an adapter that does not name its base model: {advice}")
    try:
        found = look_at_model(named_base(folder, base), has_tokenizer=True)
    except ValueError as error:
        raise ValueError(f"{folder} is an adapter of {base}, but {error}: {advice}") from None
    if found.adapter:
        raise ValueError(f"{folder} is an adapter of the adapter {base}: merge that into its base")
    own = _has_tokenizer(folder)
    tokenizer = str(folder) if own else found.tokenizer
    if not own and Path(found.model).is_dir() and not _has_tokenizer(Path(found.model)):
        raise ValueError(f"neither {folder} nor its base {base} holds a tokenizer")
    return ModelFolder(str(folder), found.model, str(folder), tokenizer, found.config)


def _look_on_hub(name: str) -> dict[str, Any]:
    """Return the configuration of a name on the Hub if it is in the cache, else {}.

    One question, as the libraries ask many, and wait between them.
    """
    parts = Path(name).parts
    if not HUB_NAME.fullmatch(name) or (len(parts) == 2 and Path(parts[0]).is_dir()):
        raise ValueError(f"there is no model folder {name}")
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
    except ImportError:
        return {}  # the engine will say what is not installed
    cached = huggingface_hub.try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return _read(Path(cached))
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ValueError(
            f"there is no model folder {name}, and none of that name in the Hugging Face cache "
            "(HF_HUB_OFFLINE is set)"
        )
    try:
        huggingface_hub.HfApi().model_info(name, timeout=HUB_SECONDS)
    except RepositoryNotFoundError:
        raise ValueError(
            f"there is no model folder {name}, and none on the Hugging Face Hub"
        ) from None
    except HfHubHTTPError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"there is no model folder {name}; the Hugging Face Hub: {reason}"
        ) from None
    except Exception as error:  # of the network: each library below has its own
        raise ValueError(
            f"there is no model folder {name}, and the Hugging Face Hub cannot be reached "
            f"({type(error).__name__})"
        ) from None
    return {}


def _has_tokenizer(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in TOKENIZER_FILES)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object, got {type(content).__name__}")
    return content


def _check_version(model: str, config: Mapping[str, Any]) -> None:
    """Refuse positions that Transformers 4 does not know of: it would answer wrong text."""
    text = config.get("text_config") or config
    rope = text.get("rope_parameters")
    if not rope or "rope_theta" in text or rope == {"rope_theta": 1e4, "rope_type": "default"}:
        return
    try:
        version = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return  # the engine will say so
    if int(version.partition(".")[0]) < 5:
        raise ValueError(
            f"{model} was written by Transformers 5, and the {version} that is installed would "
            "ignore the rope_parameters in its config.json: install transformers>=5"
        )


def _warn_of_window(model: str, config: Mapping[str, Any]) -> None:
    """Warn of a model whose every layer sees the last tokens only.

    Where some layers see everything, as in Gemma 3 and gpt-oss, nothing is lost.
    """
    text = config.get("text_config") or config
    window = text.get("sliding_window")
    if not window or not text.get("use_sliding_window", True):
        return
    kinds = set(text.get("layer_types") or ["sliding_attention"])
    mixed = kinds != {"sliding_attention"} or text.get("sliding_window_pattern")
    mixed = mixed or text.get("max_window_layers") or text.get("model_type") in ("gemma2", "gemma3")
    if not mixed and window < text.get("max_position_embeddings", 0):
        warnings.warn(
            f"{model}: every layer sees the last {window} tokens only, so of a longer prompt the "
            "first demonstrations fade: drop demonstrations with "
            f"max_model_len={window}, or take another model",
            stacklevel=4,
        )
