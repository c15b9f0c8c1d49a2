"""Models: training data, training, and fine-tuning at test time."""

from arc_airv import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "arc_airv.training.train": "TrainConfig load_model save_model",
        "arc_airv.training.ttft": "finetune_joint finetune_per_task",
        "arc_airv.training.sources": "load_source parse_mixture",
        "arc_airv.training.examples": "ExampleStream Source",
        "arc_airv.training.tiny": "build_model build_tokenizer tiny_prompt_format",
    },
)
