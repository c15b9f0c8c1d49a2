"""Compare a model's loss on test outputs with its loss on demonstrations, to detect leakage.

    python res/make/leakage.py --model res/small

The command prints, averaged over tasks, the loss per token (nats) of the test output given the
demonstrations, and of the last demonstration's output given the others. A model that has learnt
only the demonstrations has a lower loss on them; one that has learnt the test outputs has as low a
loss on those.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from arc_airv.prompts.format import PromptFormat
from arc_airv.tasks import Task, load_tasks
from arc_airv.training.examples import IGNORED, ExampleSizes

EDGES = (0, 512, 1024, 2048)  # tokens of the whole question with its answer


def questions(task: Task) -> Iterator[tuple[str, Task]]:
    """Yield the task's own question, and its last demonstration as a question."""
    yield "test", Task(task.task_id, task.train, task.test[:1])
    if len(task.train) > 1:
        yield "demonstration", Task(task.task_id, task.train[:-1], task.train[-1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="res/small")
    parser.add_argument("--tasks", default="arc-agi-1/evaluation")
    args = parser.parse_args()
    prompt_format = PromptFormat.load(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()

    def loss(task: Task) -> float:
        """Return the loss on the answer of a task with one test pair."""
        prompt = prompt_format.render(task, tokenizer=tokenizer)
        answer = prompt_format.render_answer(task.test[0].output)
        ids, rest = (tokenizer.encode(t, add_special_tokens=False) for t in (prompt, answer))
        labels = torch.tensor([[IGNORED] * len(ids) + rest])
        with torch.inference_mode():
            return model(input_ids=torch.tensor([ids + rest]), labels=labels).loss.item()

    sizes = ExampleSizes(prompt_format, tokenizer)
    losses: dict[tuple[int, str], list[float]] = {}
    for task in load_tasks(args.tasks).values():
        size = sizes.example((*task.train, task.test[0]))
        edge = next((edge for edge in EDGES[1:] if size <= edge), None)
        for kind, question in questions(task) if edge else ():
            losses.setdefault((edge, kind), []).append(loss(question))
    print(f"{args.model}, {args.tasks}: nats a token, mean over tasks")
    print("| tokens | tasks | demonstration | test output |\n|---|---|---|---|")
    for low, high in zip(EDGES, EDGES[1:]):
        if (high, "test") in losses:
            of_kind = [np.mean(losses[high, kind]) for kind in ("demonstration", "test")]
            row = f"{low}-{high}", len(losses[high, "test"]), *(f"{x:.3f}" for x in of_kind)
            print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
