"""Rehearse the pushed submission notebook as a Kaggle kernel, with failures injected.

    python kaggle/rehearse.py                      # every variant
    python kaggle/rehearse.py --only rerun "disk full"

Exits with 1 if a variant fails.
"""

import argparse
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rehearsal.image import vllm_version
from rehearsal.play import Outcome, rehearse, set_stage
from rehearsal.sealed import KINDS, find_kind
from rehearsal.variants import VARIANTS


def describe(outcome: Outcome) -> str:
    """Summarize an outcome in a few words."""
    if outcome.faults:
        return "FAULT: " + "; ".join(outcome.faults)
    text = f"valid, {outcome.answered} of {outcome.outputs} answered"
    return f"{text}; {len(outcome.reported)} things reported" if outcome.reported else text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--isolation", choices=KINDS, help="instead of the best available")
    parser.add_argument("--jobs", type=int, default=3, help="rehearsals to run at once")
    parser.add_argument("--into", type=Path, help="folder to keep (default: a temporary one)")
    args = parser.parse_args()
    kind = args.isolation or find_kind()
    print(f"isolation: {KINDS[kind]}")
    chosen = {name: VARIANTS[name] for name in args.only}
    if vllm_version() is None and chosen.pop("rerun", None):
        print("rerun: SKIPPED, this environment has no vLLM")
    folder = args.into or Path(tempfile.mkdtemp(prefix="rehearsal-"))
    start = time.monotonic()
    stage = set_stage(folder)
    print(f"the wheel dataset, the image: {time.monotonic() - start:.0f} s, in {folder}\n")
    print(f"{'variant':<16} {'seconds':>7}  {'sabotage':<68} outcome", flush=True)
    failed = []
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(rehearse, stage, name, v, kind) for name, v in chosen.items()]
        for run, (name, variant) in zip(runs, chosen.items()):
            outcome = run.result()
            print(f"{name:<16} {outcome.seconds:7.0f}  {variant.what:<68} {describe(outcome)}")
            for line in outcome.reported:
                print(f"{'':26}{line}", flush=True)
            failed += [name] if outcome.faults else []
    print(f"\n{len(chosen) - len(failed)} of {len(chosen)} variants pass")
    print(f"{time.monotonic() - start:.0f} s")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the logs are in {folder}")
    if args.into is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
