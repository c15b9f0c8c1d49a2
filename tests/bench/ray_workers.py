"""Measure the speedup of workers on Ray, and the cost of dispatching.

    python tests/bench/ray_workers.py                     # on two cores, then simulated
    python tests/bench/ray_workers.py --only simulation   # many workers, with costs measured here

The first table is measured, with one-thread workers that run vLLM. In the second, the dispatcher is
real, but the workers and the clock are simulated. The duration of each answer is drawn from those
that a vLLM engine took here. The dispatcher's own computing time is measured and counted, and so is
the cost of Ray's calls, as measured here.
"""

import argparse
import functools
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for an engine in this process
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from batching import pick_tasks
from simulated_workers import Costs, SimulatedWorkers

from arc_airv.augment import sample_augmentations
from arc_airv.engines import RayEngine, Sampling, VllmEngine
from arc_airv.engines.base import Completion
from arc_airv.engines.cluster.dispatch import Dispatcher
from arc_airv.engines.vllm import QUEUE_AHEAD
from arc_airv.infer.generate import generate_predictions

PARALLEL = 16  # requests that an engine answers at once


# Measured ----------------------------------------------------------------------------------------


def throughput(engine, n_tasks: int, n_predictions: int) -> tuple[float, float]:
    """Return the predictions per second and the core-seconds of all processes for each."""
    tasks = pick_tasks(engine, n_tasks, 600)
    options = {"seed": 0, "progress": False}
    with tempfile.TemporaryDirectory() as folder:
        few = dict(list(tasks.items())[:4])
        generate_predictions(few, engine, n_predictions=8, store=f"{folder}/0.jsonl", **options)
        before = core_seconds()
        summary = generate_predictions(
            tasks, engine, n_predictions=n_predictions, store=f"{folder}/1.jsonl", **options
        )
    return summary.n_new / summary.seconds, (core_seconds() - before) / summary.n_new


def core_seconds() -> float:
    """Return the processor time of this process and all its descendants."""
    used, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended since
            continue
        parents[int(path.parent.name)] = int(fields[1])
        used[int(path.parent.name)] = int(fields[11]) + int(fields[12])

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_ours(parents[pid]))

    return sum(ticks for pid, ticks in used.items() if is_ours(pid)) / os.sysconf("SC_CLK_TCK")


def measure(kind: str, args: argparse.Namespace) -> None:
    """Measure one kind of engine in its own process and print the result as JSON.

    The engine gets one core per worker, for all its processes: a plain vLLM has three busy ones,
    the vLLM of a worker one besides Ray's own.
    """
    n_cores = 1 if kind == "plain" else int(kind)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-n_cores:])
    factory = functools.partial(VllmEngine, args.model, max_num_seqs=PARALLEL)
    if kind == "plain":
        engine = factory()
    else:
        engine = RayEngine(factory, int(kind))
        engine.wait_ready()
    runs = [throughput(engine, args.tasks, args.predictions) for _ in range(2)]
    result = {"rate": max(rate for rate, _ in runs), "cost": min(cost for _, cost in runs)}
    if kind == "plain":
        result["seconds"] = latencies(engine, args.tasks)
    engine.close()
    print(json.dumps(result))


def latencies(engine: VllmEngine, n_tasks: int) -> list[float]:
    """Return the seconds of each answer where `PARALLEL` are computed at once."""
    tasks = pick_tasks(engine, n_tasks, 600)
    render = engine.prompt_format.render
    prompts = [
        render(a.apply_task(task), tokenizer=engine.tokenizer)
        for task in tasks.values()
        for a in sample_augmentations(task, 8, seed=1)
    ]
    sampling = Sampling(max_tokens=300, stop=tuple(engine.prompt_format.stop))
    started, seconds, numbers = {}, [], itertools.count()

    def requests():
        for prompt in prompts:
            while len(started) == PARALLEL:
                next(numbers)
                yield None
            started[next(numbers)] = time.monotonic()
            yield prompt, sampling

    for finished in engine.stream(requests()):
        seconds += [time.monotonic() - started.pop(number) for number, _ in finished]
    return seconds


# Costs -------------------------------------------------------------------------------------------


class Echo:
    """Answer in no time."""

    window = 512

    def stream(self, requests):
        ready = []
        for number, request in enumerate(requests):
            if request is None:
                yield [(n, [Completion("0123456789\n" * 20, 200, -1.0, "stop")]) for n in ready]
                ready = []
            else:
                ready.append(number)


def ray_costs(prompt: str) -> Costs:
    """Return the processor time of this process, all its threads, for a call and for a request.

    Each is the minimum of several measurements, because other processes disturb them.
    """
    engine = RayEngine(Echo, 1)
    workers = engine._workers
    run = 0

    def seconds_of(chunk, n=100) -> float:
        nonlocal run
        start = time.process_time()
        for _ in range(n):
            run += 1
            workers.send(0, run, "replies", [chunk])
            (event,) = workers.wait(60.0)
            if len(event.answer) != len(chunk):
                raise RuntimeError(f"{len(event.answer)} of {len(chunk)} were answered")
        return (time.process_time() - start) / n

    chunk = [(i, (f"{i} {prompt}", Sampling())) for i in range(64)]
    calls, full = [], []
    for _ in range(10):
        calls.append(seconds_of(chunk[:1]))
        full.append(seconds_of(chunk))
    engine.close()
    request = max(0.0, (min(full) - min(calls)) / (len(chunk) - 1))
    return Costs(min(calls), request)


# Simulated ---------------------------------------------------------------------------------------


def simulate(
    n_workers: int, n: int, seconds: list[float], costs: Costs, prompt: str
) -> dict[str, float]:
    """Drive simulated workers with the real dispatcher."""
    draw = random.Random(0)
    total = 0.0

    def requests():
        nonlocal total
        for number in range(n):
            needed = draw.choice(seconds)
            total += needed
            yield f"{number} {prompt}", needed

    workers = SimulatedWorkers(
        lambda request: request[1],
        slots=PARALLEL,
        window=QUEUE_AHEAD + PARALLEL,  # as `VllmEngine` says
        n_workers=n_workers,
        costs=costs,
        count_own_time=True,
    )
    limits = {"startup_seconds": 1e9, "hang_seconds": 1e9}
    dispatcher = Dispatcher(workers, n_workers, chunk=16, **limits)
    n_answered, memory, start = 0, [], time.monotonic()
    for finished in dispatcher.run(
        "replies", requests(), size=lambda request: len(request[0]), give_up=lambda request: None
    ):
        n_answered += len(finished)
        if n_answered >= (len(memory) + 1) * n / 10:
            memory.append(resident())
    if n_answered != n:
        raise RuntimeError(f"{n_answered} of {n} requests were answered")
    return {
        "makespan": workers.now(),
        "ideal": total / (n_workers * PARALLEL),
        "busy": workers.busy,
        "calls": workers.n_calls,
        "first": memory[0],
        "last": memory[-1],
        "took": time.monotonic() - start,
    }


def resident() -> float:
    """Return the memory of this process (MiB)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tests/tiny")
    parser.add_argument("--tasks", default=12, type=int)
    parser.add_argument("--predictions", default=16, type=int, help="of each task")
    parser.add_argument("--rounds", default=2, type=int, help="of each engine, two runs in each")
    parser.add_argument("--workers", default=64, type=int, help="simulated ones")
    parser.add_argument("--prompts", default=1_000_000, type=int, help="simulated ones")
    parser.add_argument("--only", choices=["measurement", "simulation"])
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.kind:
        measure(args.kind, args)
        return
    kinds = ["plain"] if args.only == "simulation" else ["plain", "1", "2"]
    results: dict[str, list[dict]] = {kind: [] for kind in kinds}
    # In turns, so that other load on the machine affects all of them.
    for kind in kinds * (1 if args.only == "simulation" else args.rounds):
        command = [sys.executable, __file__, "--kind", kind, "--model", args.model]
        command += ["--tasks", str(args.tasks), "--predictions", str(args.predictions)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        results[kind].append(json.loads(output.splitlines()[-1]))
        print(kind, {k: v for k, v in results[kind][-1].items() if k != "seconds"}, flush=True)
    if args.only != "simulation":
        n = args.tasks * args.predictions
        rates = {kind: max(r["rate"] for r in rounds) for kind, rounds in results.items()}
        costs = {kind: min(r["cost"] for r in rounds) for kind, rounds in results.items()}
        print(
            f"\n{n} predictions, {args.model}, vLLM with a core a worker, "
            f"best of {2 * args.rounds} runs\n"
        )
        print("| engine | predictions a second | of the plain one | core-seconds a prediction |")
        print("|---|---|---|---|")
        for kind in kinds:
            name = "plain" if kind == "plain" else f"Ray, {kind} worker{'s'[: int(kind) > 1]}"
            relative = rates[kind] / rates["plain"]
            print(f"| {name} | {rates[kind]:.2f} | {relative:.2f} | {costs[kind]:.3f} |")
        print(f"\n2 workers against 1: {rates['2'] / rates['1']:.2f}")
    if args.only != "measurement":
        seconds = results["plain"][0]["seconds"]
        prompt = "1 0a1b2c3d4e5f6g7h8i9j\n" * 90  # about 2 kB
        costs = ray_costs(prompt)
        ordered = sorted(seconds)
        print(
            f"\nmeasured: {len(seconds)} answers, {PARALLEL} at once, of {ordered[0]:.2f} to "
            f"{ordered[-1]:.2f} s, median {ordered[len(ordered) // 2]:.2f} s; Ray takes "
            f"{1e3 * costs.call:.2f} ms a call and {1e6 * costs.request:.0f} us a prompt\n"
        )
        r = simulate(args.workers, args.prompts, seconds, costs, prompt)
        print("| simulated | |\n|---|---|")
        print(f"| workers x prompts at once | {args.workers} x {PARALLEL} |")
        print(f"| prompts | {args.prompts:,} |")
        print(f"| makespan | {r['makespan']:.1f} s |")
        print(f"| ideal: all work over all workers | {r['ideal']:.1f} s |")
        print(f"| makespan above the ideal | {r['makespan'] / r['ideal'] - 1:.2%} |")
        print(f"| the dispatching process is busy | {r['busy'] / r['makespan']:.1%} |")
        print(f"| calls | {r['calls']:,} |")
        print(f"| memory after 10% and after all | {r['first']:.0f} and {r['last']:.0f} MiB |")
        print(f"| the simulation took | {r['took']:.0f} s |")


if __name__ == "__main__":
    main()
