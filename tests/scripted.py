"""Engines that answer from the solutions, to test the code around a model; never for results."""

import random
import time
from dataclasses import replace
from functools import cache

import numpy as np

from arc_airv.augment import sample_augmentations
from arc_airv.engines.base import Completion
from arc_airv.prompts.encoders import make_encoder
from arc_airv.prompts.format import PlainTemplate, PromptFormat

BARE = PromptFormat(make_encoder(["minimal"]), PlainTemplate())
GARBAGE = (
    "", " ", "I do not know.", "<out>", "<end>", "1<end>2<end>", "12\n3<end>", "0" * 31 + "<end>",
    "0\n" * 31 + "<end>", "12|34", "-1<end>", "٣٤<end>", "1.5<end>", "```grid", "\x00<end>",
    "\ud800<end>", "1\r2\u20282\n<end>", "0\n1\n", "[[0, 1], [2, 3]]<end>", "9" * 5000,
)  # fmt: skip


@cache
def _answers(task, n_views, plan, prompt_format):
    """Map each prompt of a plan to the output that it asks for, in the frame of the view."""
    answers = {}
    for augmentation in sample_augmentations(task, n_views, **dict(plan)):
        view = augmentation.apply_task(task)
        for i, pair in enumerate(view.test):
            for n_train in range(1, len(view.train) + 1):  # some may be dropped
                shown = replace(view, train=view.train[:n_train])
                answers[prompt_format.render(shown, i)] = pair.output
    return answers


class ScriptedEngine:
    """Answer the prompts of a plan; raise a KeyError for any other.

    The engine only has `count_tokens` and `generate`. A token is a character. A reply depends only
    on its prompt, so it is the same in any order and in any batch.

    Parameters
    ----------
    tasks : dict of str to Task
        With their test outputs.
    n_views : int
        Length of the plan.
    wrong, garbage, endless : float
        Probability that a reply is a grid with one wrong cell, is no grid, or never ends.
    delay : float
        Seconds per prompt.
    max_model_len : int, optional
        The context; the engine refuses prompts that do not fit.
    seed : int
        Seed of the faults.
    plan : dict, optional
        Options of `arc_airv.augment.sample_augmentations`; by default its seed is 0.
    """

    model = fingerprint = "scripted"

    def __init__(self, tasks, *, n_views=40, wrong=0.0, garbage=0.0, endless=0.0, delay=0.0,
                 max_model_len=None, seed=0, plan=None, prompt_format=BARE):  # fmt: skip
        self.prompt_format = prompt_format
        self.faults = [("wrong", wrong), ("garbage", garbage), ("endless", endless)]
        self.delay = delay
        self.max_model_len = max_model_len
        self.seed = seed
        self.calls = []  # the prompts of each call of generate
        plan = tuple({"seed": 0, **(plan or {})}.items())
        self.answers = {}
        for task in tasks.values():
            self.answers |= _answers(task, n_views, plan, prompt_format)

    def count_tokens(self, prompts):
        return [len(prompt) for prompt in prompts]

    def generate(self, prompts, sampling):
        self.calls.append(list(prompts))
        return [self.reply(prompt, sampling) for prompt in prompts]

    def reply(self, prompt, sampling):
        """Return the completions of one prompt."""
        if self.max_model_len and len(prompt) + sampling.max_tokens > self.max_model_len:
            raise ValueError("the prompt does not fit")
        time.sleep(self.delay)
        return [self._complete(prompt, i, sampling.max_tokens) for i in range(sampling.n)]

    def _complete(self, prompt, sample, max_tokens):
        grid = self.answers[prompt]
        rng = random.Random(f"{self.seed}/{sample}/{prompt}")
        dice = rng.random()
        fault = None
        for name, chance in self.faults:
            if 0 <= dice < chance:
                fault = name
            dice -= chance
        if fault == "wrong":
            grid = np.array(grid)
            cell = rng.randrange(grid.size)
            grid.flat[cell] = (grid.flat[cell] + rng.randrange(1, 10)) % 10
        text = self.prompt_format.render_answer(grid)
        if fault == "garbage":
            text = rng.choice(GARBAGE)
        elif fault == "endless":
            text = "01\n" * max_tokens
        finish_reason = "length" if len(text) > max_tokens else "stop"
        text = text[:max_tokens]
        return Completion(text, len(text), -rng.random() * len(text), finish_reason)


class StreamingEngine(ScriptedEngine):
    """Add `stream`: take requests while there is room, and answer the last one first.

    `lead` is the largest number of requests taken but not yet answered.
    """

    room = 4

    def stream(self, requests):
        self.lead = 0
        running = []
        requests = enumerate(requests)
        while True:
            for index, (prompt, sampling) in requests:
                running.append((index, prompt, sampling))
                self.lead = max(self.lead, len(running))
                if len(running) == self.room:
                    break
            if not running:
                return
            yield []  # a step that finishes nothing
            index, prompt, sampling = running.pop()
            self.calls.append([prompt])
            yield [(index, self.reply(prompt, sampling))]
