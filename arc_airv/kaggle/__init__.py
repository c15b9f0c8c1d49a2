"""A run on Kaggle that must end well: inputs, clock, log, watched workers."""

from arc_airv import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "arc_airv.kaggle.run": "Run",
        "arc_airv.kaggle.inputs": "find_input find_model is_rerun",
        "arc_airv.kaggle.clock": "Deadline",
        "arc_airv.kaggle.log": "Log",
        "arc_airv.kaggle.process": "Limits",
        "arc_airv.kaggle.supervise": "degrade store_paths supervise_generation",
        "arc_airv.kaggle.finetune": "supervise_finetuning",
    },
)
