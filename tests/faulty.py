"""Engines that fail on purpose; a worker makes them by their dotted path."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from scripted import StreamingEngine

import arc_airv.infer.ask
from arc_airv.engines.local import LocalEngine
from arc_airv.tasks import load_tasks

arc_airv.infer.ask.FLUSH_SECONDS = 0.0  # store answers at once


# What vLLM 0.32 writes when its cache is too small, shortened.
CORE_FAILS = """\
(EngineCore pid=21935) WARNING 11-30 06:50:17 [cpu.py:224] Triton is not installed.
(EngineCore pid=21935) ERROR 11-30 06:50:18 [core.py:1165] EngineCore failed to start.
(EngineCore pid=21935) ERROR 11-30 06:50:18 [core.py:1165] Traceback (most recent call last):
(EngineCore pid=21935) ERROR 11-30 06:50:18 [core.py:1165]     raise ValueError(
(EngineCore pid=21935) ERROR 11-30 06:50:18 [core.py:1165] ValueError: To serve at least one \
request with the model's max seq len (262144), (36.0 GiB KV cache is needed, which is larger than \
the available KV cache memory (2.0 GiB). Based on the available memory, the estimated maximum \
model length is 14560. Try increasing `gpu_memory_utilization`.
Exception ignored in: <function Pool.__del__ at 0x7f>
(EngineCore pid=21935) Process EngineCore:"""


class FaultyEngine(StreamingEngine):
    """Answer from the solutions, and fail after some replies.

    Parameters
    ----------
    model : str
        A challenges file with the solutions.
    fault : str, optional
        "start", "core" (as where vLLM's own process fails), "slow_start", "error", "kill", "hang",
        "deaf" (hangs and ignores SIGTERM) or "full" (a full disk).
    after : int
        Replies before the fault.
    prompt : str, optional
        Fail only on prompts that hold this text.
    once : str, optional
        A file to create at the fault; while it exists, no fault follows.
    device : str, optional
        Fail only on this device.
    children : str, optional
        A file that gets the id of a process that would outlive the engine.
    """

    def __init__(
        self,
        model,
        *,
        fault=None,
        after=0,
        device=None,
        children=None,
        prompt="",
        once=None,
        **options,
    ):
        if device is not None and os.environ.get("CUDA_VISIBLE_DEVICES") != device:
            fault = None
        self.fault, self.after, self.n = fault, after, 0
        self.prompt, self.once = prompt, once and Path(once)
        if children:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(children).write_text(str(child.pid))
        if fault == "start":
            raise RuntimeError("no kernel image is available for execution on the device")
        if fault == "core":
            print(CORE_FAILS, file=sys.stderr, flush=True)
            raise RuntimeError("Engine core initialization failed. See root cause above.")
        if fault == "slow_start":
            time.sleep(600)
        if fault == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (after, after))
        super().__init__(load_tasks(model), **options)

    def reply(self, prompt, sampling):
        self.n += 1
        is_due = self.n > self.after and self.prompt in prompt
        if is_due and self.once:
            is_due = not self.once.exists()
            self.once.touch()
        if is_due:
            if self.fault == "error":
                raise RuntimeError("CUDA out of memory")
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault in ("hang", "deaf"):
                if self.fault == "deaf":
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
        return super().reply(prompt, sampling)


class Letters:
    """Tokenize by character."""

    bos_token = None

    def encode(self, text, add_special_tokens=True):
        return list(map(ord, text))

    def decode(self, tokens, skip_special_tokens=False):
        return "".join(map(chr, tokens))


class FragileEngine(LocalEngine):
    """Score and search, and die on a prompt with an x in it."""

    model, tokenizer, max_model_len, eos_ids = "letters", Letters(), 100, {ord(".")}

    def stream_scores(self, requests):
        for number, (prompt, continuations) in enumerate(requests):
            self.die_of(prompt)
            yield [(number, [-float(len(text)) for text in continuations])]

    def run_searches(self, searches):
        for number, search in enumerate(searches):
            self.die_of(self.tokenizer.decode(search.token_ids))
            search.advance([[(ord("."), -0.5)]], self.is_over)
            yield [(number, search)]

    def die_of(self, prompt):
        if "x" in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
