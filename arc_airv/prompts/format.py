"""Prompt formats: a view becomes a prompt, a reply becomes a grid or a status.

A `PromptFormat` is a grid encoder and a template. It is stored as ``prompt_format.json`` in the
folder of the model that was trained with it, because a model only answers well in the format that
it knows. Knows nothing of engines; a chat template needs the model's tokenizer to be rendered.
"""

import json
import re
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from arc_airv.grids import MAX_SIDE, N_COLORS, Grid
from arc_airv.prompts.encoders import (
    FENCE,
    GridEncoder,
    ReplyError,
    can_hold,
    check_rows,
    encoder_spec,
    make_encoder,
)
from arc_airv.prompts.replies import Reading, begins_thought, has_thought, read_reply
from arc_airv.records import OK, TRUNCATED, UNPARSED
from arc_airv.storage import unique_fields
from arc_airv.tasks import Pair, Task

FORMAT_FILE = "prompt_format.json"
TASK_ID = "{task_id}"  # in a preamble


class ParsedReply(NamedTuple):
    """The grid of a reply, in the frame of the view (or None), and a status."""

    grid: Grid | None
    status: str


class Segment(NamedTuple):
    """A stretch of training text; the loss is taken on the answers."""

    text: str
    is_answer: bool


class Template:
    """The text around the grids; a subclass fills a prompt and says how a reply begins and ends.

    `thinking_tokens` is what a reply may take before its answer.
    """

    thinking_tokens: int = 0

    def render(self, view: Task, test_index: int, encoder: GridEncoder, tokenizer: Any) -> str:
        """Return the prompt that asks for one test output of a view."""
        raise TypeError(f"{type(self).__name__} renders no prompt")

    def answer(self, grid: Grid, encoder: GridEncoder) -> str:
        """Return the reply of a perfect model."""
        return encoder.encode(grid)

    def segments(self, view: Task, prompt: str, encoder: GridEncoder) -> list[Segment]:
        """Cut a prompt into stretches with and without loss."""
        return [Segment(prompt, False)]

    def begins_answer(self, prompt: str) -> bool:
        """Tell if the answer is all that a prompt leaves to the reply."""
        return True

    def stop(self, encoder: GridEncoder) -> list[str]:
        """Return the strings at which an answer is over that the prompt begins."""
        return []

    def read(
        self, reply: str, finish_reason: str | None, encoder: GridEncoder, prompt: str | None
    ) -> Reading:
        """Return the grid of a reply, a status, and the number of distinct grids."""
        raise TypeError(f"{type(self).__name__} reads no reply")


@dataclass(frozen=True)
class PlainTemplate(Template):
    """Marks around bare grids, for a model trained from scratch.

    A pair is ``input_mark + input + output_mark + output + end_mark``; the prompt ends with the
    output mark of the test pair, and the model writes ``end_mark`` when it is done. A `preamble`
    stands before the first pair: some models were trained with one, and a base model may be told
    there what the pairs are. In it, ``{task_id}`` stands for the task's id: a model with a token
    for each task has learnt their rules by their names.
    """

    input_mark: str = "<in>"
    output_mark: str = "<out>"
    end_mark: str = "<end>"
    preamble: str = ""

    def __post_init__(self) -> None:
        for name, mark in asdict(self).items():
            if not isinstance(mark, str):
                raise ValueError(f"{name} must be a string, got {mark!r}")
            if not mark and name != "preamble":
                raise ValueError(f"{name} must be a string that is not empty, got {mark!r}")

    def render(self, view, test_index, encoder, tokenizer):
        """Return the preamble, every demonstration, then the test input."""
        pairs = "".join(
            self._question(pair, encoder) + self.answer(pair.output, encoder) for pair in view.train
        )
        return self._begin(view) + pairs + self._question(view.test[test_index], encoder)

    def _begin(self, view: Task) -> str:
        return self.preamble.replace(TASK_ID, view.task_id)

    def _question(self, pair: Pair, encoder: GridEncoder) -> str:
        return self.input_mark + encoder.encode(pair.input) + self.output_mark

    def answer(self, grid, encoder):
        return encoder.encode(grid) + self.end_mark

    def segments(self, view, prompt, encoder):
        """Take the loss on every demonstration after the first, too.

        Each is a question whose context is the demonstrations before it; the first one's is the
        task's id, if the preamble has it.
        """
        first = 0 if TASK_ID in self.preamble else 1
        segments = []
        for i, pair in enumerate(view.train):
            question = (self._begin(view) if i == 0 else "") + self._question(pair, encoder)
            demonstration = self.answer(pair.output, encoder)
            segments += [Segment(question, False), Segment(demonstration, i >= first)]
            prompt = prompt.removeprefix(question + demonstration)
        return [*segments, Segment(prompt, False)]

    def stop(self, encoder):
        return [self.end_mark]  # base models never stop alone

    def read(self, reply, finish_reason, encoder, prompt):
        before, mark, _ = reply.partition(self.end_mark)
        reading = _read_begun(before, "stop" if mark else finish_reason, encoder)
        if mark and reading.status == OK and encoder.closing is None:
            try:
                check_rows(encoder, before)
            except ReplyError as error:
                return Reading(None, error.status, 0)
        return reading


@dataclass(frozen=True)
class ChatTemplate(Template):
    """A Markdown question in a model's own chat template, for an instruction-tuned model.

    The assistant's turn is prefilled with `prefill`, so that the model goes on with the grid; but
    not where the chat template begins a thought. `options` are passed to the chat template, such
    as ``{"enable_thinking": False}``; `thinking_tokens` is what a thought, or another text before
    the answer, may take beside the answer.
    """

    system: str = "You are a helpful assistant."
    intro: str = (
        "Let's see if you can solve this grid puzzle. Below are some input grids and the output "
        "grids that one rule makes of them. Find the rule and apply it to the test input."
    )
    prefill: str = "### Output\n\n```grid"
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    thinking_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("system", "intro", "prefill"):
            if not isinstance(value := getattr(self, name), str):
                raise ValueError(f"{name} must be a string, got {value!r}")
        names_given = isinstance(self.options, dict) and all(map(str.isidentifier, self.options))
        if not names_given or self.options.keys() & RESERVED:
            raise ValueError(
                f"options of a chat template are a dict by name, without {sorted(RESERVED)}, "
                f"got {self.options!r}"
            )
        if not isinstance(self.thinking_tokens, int) or self.thinking_tokens < 0:
            raise ValueError(
                f"thinking_tokens must be an integer of at least 0, got {self.thinking_tokens!r}"
            )

    def render(self, view, test_index, encoder, tokenizer):
        return self.chat(self.question(view, test_index, encoder), tokenizer)

    def question(self, view: Task, test_index: int, encoder: GridEncoder) -> str:
        """Return the user's message."""
        encode = encoder.encode
        parts = [self.intro]
        for i, pair in enumerate(view.train, start=1):
            parts.append(f"## Example {i}\n\n### Input\n\n{encode(pair.input)}")
            parts.append(f"### Output\n\n{encode(pair.output)}")
        parts.append(f"## Test case\n\n### Input\n\n{encode(view.test[test_index].input)}")
        return "\n\n".join(parts)

    def chat(self, question: str, tokenizer: Any) -> str:
        """Return the prompt text of a message, by the tokenizer's chat template.

        Raises
        ------
        ValueError
            If the tokenizer is missing or has no chat template.
        """
        if not has_chat_template(tokenizer):
            raise ValueError(
                "this prompt format needs a tokenizer with a chat template; "
                "use PlainTemplate for a model that has none"
            )

        def apply(*messages: tuple[str, str]) -> str:
            chat = [{"role": role, "content": content} for role, content in messages]
            return tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, **self.options
            )

        if not self.system:
            text = apply(("user", question))
        else:
            try:
                text = apply(("system", self.system), ("user", question))
            except Exception:  # a template says no in its own words (Gemma has no system role)
                text = ""
            if self.system.strip() not in text:  # another leaves it out
                text = apply(("user", f"{self.system}\n\n{question}"))
        return text if begins_thought(text) else text + self.prefill

    def answer(self, grid, encoder):
        """Leave out the beginning of the block that the prefill holds."""
        answer = encoder.encode(grid)
        if encoder.closing:
            for k in range(min(len(answer), len(self.prefill)), 0, -1):
                if self.prefill.endswith(answer[:k]):
                    return answer[k:]
        return answer

    def begins_answer(self, prompt):
        return self.prefill != "" and prompt.endswith(self.prefill)

    def stop(self, encoder):
        # With no prefilled fence, the first fence of the reply opens the block.
        return [f"\n{FENCE}"] if self._opens_block() else []

    def _opens_block(self) -> bool:
        return self.prefill.count(FENCE) % 2 == 1

    def read(self, reply, finish_reason, encoder, prompt):
        prefilled = self.prefill if prompt is None else self.begins_answer(prompt)
        thinking = prompt is not None and begins_thought(prompt)
        if not prefilled or has_thought(reply):
            return read_reply(reply, finish_reason, encoder, thinking=thinking)
        line = self.prefill.rpartition(FENCE if self._opens_block() else "\n")[2]
        joined = line[-1:].isspace() or (reply[:1].isspace() and not _BEGINS_ROW.match(reply))
        gap = "" if joined else "\n"
        if not self._opens_block():
            return read_reply(line + gap + reply, finish_reason, encoder)
        if encoder.closing:
            begun = _read_begun(reply, finish_reason, encoder)
            if begun.status != UNPARSED:  # of a broken grid, too: no later one is the answer
                return begun
        # In another notation, it is in this block all the same: what follows may be another grid.
        block, closing, _ = reply.partition(FENCE)
        if closing:
            within = read_reply(f"{FENCE}{line}{gap}{block}\n{FENCE}", "stop", encoder)
            if within.status != UNPARSED:
                return within
        return read_reply(f"{FENCE}{line}{gap}{reply}", finish_reason, encoder)


_BEGINS_ROW = re.compile(r"[ \t]*\d[\d \t,;|&]*\n")
RESERVED = {"tokenize", "add_generation_prompt", "return_dict", "return_tensors"}
NEWER = {"options", "thinking_tokens", "preamble"}
TEMPLATES = {"plain": PlainTemplate, "chat": ChatTemplate}


@dataclass(frozen=True)
class PromptFormat:
    """The text of a view, and the grid of a reply.

    Parameters
    ----------
    encoder : GridEncoder
        Writes a grid; see `arc_airv.prompts.make_encoder`.
    template : PlainTemplate or ChatTemplate
        The text around the grids.

    Raises
    ------
    ValueError
        If the end mark of a plain template may stand in a grid.

    Examples
    --------
    >>> format = PromptFormat(make_encoder(["grid_shape", "row_number", "minimal"]))
    >>> format.parse(" shape: 2x2\\n1 01\\n2 10\\n```\\nHope this helps!").status
    'ok'
    """

    encoder: GridEncoder = field(
        default_factory=lambda: make_encoder(["grid_shape", "row_number", "minimal"])
    )
    template: Template = field(default_factory=ChatTemplate)

    def __post_init__(self) -> None:
        mark = vars(self.template).get("end_mark")
        if mark and can_hold(self.encoder, mark):
            raise ValueError(
                f"the end_mark {mark!r} may stand in a grid as {encoder_spec(self.encoder)} writes "
                "it, which would end there"
            )

    def render(self, view: Task, test_index: int = 0, *, tokenizer: Any = None) -> str:
        """Return the prompt that asks for one test output of a view; a chat needs a `tokenizer`.

        Raises
        ------
        ValueError
            If there is no such test pair, or the tokenizer has no chat template that is needed.
        """
        if not 0 <= test_index < len(view.test):
            raise ValueError(
                f"task {view.task_id} has {len(view.test)} test pairs, there is none {test_index}"
            )
        return self.template.render(view, test_index, self.encoder, tokenizer)

    def training_segments(
        self, view: Task, test_index: int = 0, *, tokenizer: Any = None
    ) -> list[Segment]:
        """Return the prompt and its answer, cut into stretches with and without loss."""
        output = view.test[test_index].output
        if output is None:
            raise ValueError(f"task {view.task_id}: test output {test_index} is hidden")
        prompt = self.render(view, test_index, tokenizer=tokenizer)
        segments = self.template.segments(view, prompt, self.encoder)
        return [*segments, Segment(self.render_answer(output), True)]

    def render_answer(self, grid: Grid) -> str:
        """Return the reply of a perfect model: what a continuation is scored or trained on."""
        return self.template.answer(grid, self.encoder)

    @property
    def stop(self) -> list[str]:
        """Strings at which a reply is over, for the engine."""
        return self.template.stop(self.encoder)

    def measure(self, task: Task, engine: Any, *, answers: bool = True) -> int:
        """Return the tokens of a task's longest question, with its answer where that is known."""
        texts = [
            self.render(task, i, tokenizer=engine.tokenizer)
            + (self.render_answer(pair.output) if answers and pair.output is not None else "")
            for i, pair in enumerate(task.test)
        ]
        return max(engine.count_tokens(texts))

    def parse(self, reply: str, finish_reason: str | None = None) -> ParsedReply:
        """Read the grid out of a reply. Never raises.

        Parameters
        ----------
        reply : str
            The model's text after the prompt, with anything around the grid.
        finish_reason : {"stop", "length", None}
            "stop": the model ended the reply itself. "length": it was cut. None: not known.

        Returns
        -------
        ParsedReply
            A grid and "ok"; or None and "unparsed" (no row of a grid), "ragged" (rows of
            different lengths, a row misnumbered, or another shape than declared), "too_large"
            (a side over 30) or "truncated" (cut before its end: the reply reached its length
            limit, or lacks its closing mark for an unknown reason).
        """
        return ParsedReply(*self.read(reply, finish_reason)[:2])

    def read(
        self, reply: str, finish_reason: str | None = None, *, prompt: str | None = None
    ) -> Reading:
        """Read a reply like `parse`, and count its distinct grids.

        The `prompt` tells if a thought or a block was begun there; without it, the template's
        prefill is taken to be in it.
        """
        if not isinstance(reply, str):
            return Reading(None, UNPARSED, 0)
        return self.template.read(reply, finish_reason, self.encoder, prompt)

    def to_dict(self) -> dict[str, Any]:
        """Return the format as plain JSON values."""
        name = next(n for n, cls in TEMPLATES.items() if cls is type(self.template))
        # What is newer than the first stores is left out where it is not used, to resume those.
        options = {k: v for k, v in asdict(self.template).items() if v or k not in NEWER}
        return {"encoder": encoder_spec(self.encoder), "template": {"name": name, **options}}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Read what `to_dict` gave.

        Raises
        ------
        ValueError
            If a key, name or option is unknown.
        """
        if not isinstance(content, dict) or set(content) != {"encoder", "template"}:
            raise ValueError(f"a prompt format has 'encoder' and 'template', got {content!r}")
        if not isinstance(content["template"], dict):
            raise ValueError(f"a template is an object, got {content['template']!r}")
        options = dict(content["template"])
        name = options.pop("name", None)
        if not isinstance(name, str) or name not in TEMPLATES:
            raise ValueError(f"unknown template {name!r}; known are {sorted(TEMPLATES)}")
        try:
            template = TEMPLATES[name](**options)
        except TypeError as error:
            raise ValueError(f"template {name!r}: {error}") from None
        return cls(make_encoder(content["encoder"]), template)

    def save(self, folder: str | Path) -> Path:
        """Write ``prompt_format.json`` into a model folder."""
        path = Path(folder) / FORMAT_FILE
        content = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        path.write_text(content, encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Self | None:
        """Return the format that a model folder carries, or None if it carries none.

        Raises
        ------
        ValueError
            If the file is there but malformed; the message names it.
        """
        path = Path(folder) / FORMAT_FILE
        if not path.is_file():
            return None
        try:
            text = path.read_text(encoding="utf-8")
            return cls.from_dict(json.loads(text, object_pairs_hook=unique_fields))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from None


def _read_begun(reply: str, finish_reason: str | None, encoder: GridEncoder) -> Reading:
    """Read the first grid of a reply whose prompt has begun it, in the format's own notation."""
    try:
        grid, ended = encoder.decode(reply)
    except ReplyError as error:
        cut = finish_reason not in ("stop", None) and not error.final
        return Reading(None, TRUNCATED if cut else error.status, 0)
    unknown_is_fine = finish_reason is None and encoder.closing is None
    if ended or finish_reason == "stop" or unknown_is_fine:
        return Reading(grid, OK, 1)
    return Reading(None, TRUNCATED, 1)


def choose_format(
    given: PromptFormat | dict[str, Any] | None,
    own: PromptFormat | None,
    tokenizer: Any,
    model: str | Path,
) -> PromptFormat:
    """Return the format to ask or to train a model in: the one given, its own, or a default.

    The default, for a model that carries none, goes through the tokenizer's chat template where
    there is one. To use it is a warning, and to give another format than the model's own. A dict
    is one as JSON values.
    """
    if isinstance(given, dict):
        given = PromptFormat.from_dict(given)
    if given is None and own is None:
        chat = has_chat_template(tokenizer)
        given = PromptFormat() if chat else PromptFormat(template=PlainTemplate())
        warnings.warn(
            f"{model}: no prompt_format.json says in which format the model was trained, and it "
            f"has {'a' if chat else 'no'} chat template, so the default for that is used: "
            f"{given.to_dict()}. If it knows another, give prompt_format="
            "PromptFormat(encoder, template), or write it into that folder: save(folder).",
            stacklevel=4,
        )
    elif own is not None and given not in (None, own):
        warnings.warn(
            "The model was trained with another prompt format than the one given: it will answer "
            f"worse. Its own: {own.to_dict()}; given: {given.to_dict()}",
            stacklevel=4,
        )
    return given or own


def has_chat_template(tokenizer: Any) -> bool:
    """Tell if a tokenizer (or None) has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def varied_grid(height: int, width: int) -> Grid:
    """Return a grid whose neighbours differ, so that a tokenizer merges few of its cells."""
    return (np.add.outer(np.arange(height), 3 * np.arange(width)) % N_COLORS).astype(np.int8)


def max_output_cells(task: Task, test_index: int) -> int:
    """Return a generous bound of an output's cells, to size the reply's token budget.

    Four times the largest grid that the prompt shows, at most 30 x 30. Over the 835 test outputs
    of ARC-AGI-1 none is larger; twice the largest grid would lose three.
    """
    shown = [grid.size for pair in task.train for grid in (pair.input, pair.output)]
    largest = max([*shown, task.test[test_index].input.size])
    return min(MAX_SIDE * MAX_SIDE, 4 * largest)
