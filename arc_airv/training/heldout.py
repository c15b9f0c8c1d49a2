"""Measure a model in training on tasks that it does not learn: the loss, and exact answers."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from arc_airv.engines import TransformersEngine
from arc_airv.infer import generate_predictions
from arc_airv.metrics import score_predictions
from arc_airv.records import read_predictions
from arc_airv.tasks import Task
from arc_airv.training.examples import IGNORED, ExampleStream


class HeldOut:
    """Measures a model on tasks; for the `measure` of `arc_airv.training.train`.

    The tasks come with their test outputs and are in no source of the stream, whose format and
    tokenizer are used. Those that do not fit its token limit are left out; none left is a
    ValueError.
    """

    def __init__(self, tasks: dict[str, Task], stream: ExampleStream) -> None:
        self.stream = stream
        self.examples = {
            task_id: example
            for task_id, task in tasks.items()
            if len((example := stream.encode(task)).token_ids) <= stream.max_tokens
        }
        if not self.examples:
            raise ValueError(f"no held-out task fits {stream.max_tokens} tokens")
        self.tasks = {task_id: tasks[task_id] for task_id in self.examples}

    def __call__(self, model: Any) -> dict[str, float]:
        """Return the mean loss of the answers' tokens (nats) and the share of exact greedy ones."""
        measured = {"held_out_loss": self._loss(model), "held_out_exact": self._exact(model)}
        return {name: round(value, 4) for name, value in measured.items()}

    @torch.inference_mode()
    def _loss(self, model: Any) -> float:
        total = n_labels = 0.0
        for example in self.examples.values():
            ids, labels = torch.tensor([[example.token_ids], [example.labels]], device=model.device)
            n = int((labels != IGNORED).sum())
            total += n * model(input_ids=ids, labels=labels).loss.item()
            n_labels += n
        return total / n_labels

    def _exact(self, model: Any) -> float:
        engine = TransformersEngine(model, tokenizer=self.stream.tokenizer)
        options = {"prompt_format": self.stream.format, "progress": False}
        with TemporaryDirectory() as folder:
            store = Path(folder) / "predictions.jsonl"
            generate_predictions(
                self.tasks, engine, n_predictions=1, seed=0, store=store, **options
            )
            return float(score_predictions(read_predictions(store), self.tasks)["correct"].mean())
