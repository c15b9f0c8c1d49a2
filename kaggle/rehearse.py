"""A Kaggle kernel on a laptop: the submission notebook, as it is pushed, in all its misfortunes.

    python kaggle/rehearse.py                      # every variant
    python kaggle/rehearse.py --only rerun "disk full"

Exits with 1 if a variant does not end as it has to.
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
    """Say in a few words how it ended."""
    if outcome.faults:
        return "FAULT: " + "; ".join(outcome.faults)
    text = f"valid, {outcome.answered} of {outcome.outputs} answered"
    return f"{text}; {len(outcome.reported)} things reported" if outcome.reported else text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--isolation", choices=KINDS, help="not the best that there is")
    parser.add_argument("--jobs", type=int, default=3, help="rehearsals at once")
    parser.add_argument("--into", type=Path, help="a folder to keep; else a temporary one")
    args = parser.parse_args()
    kind = args.isolation or find_kind()
    print(f"isolation: {KINDS[kind]}")
    chosen = {name: VARIANTS[name] for name in args.only}
    if vllm_version() is None and chosen.pop("rerun", None):
        print("rerun: LEFT OUT, there is no vLLM in this environment")
    folder = args.into or Path(tempfile.mkdtemp(prefix="rehearsal-"))
    start = time.monotonic()
    stage = set_stage(folder)
    print(f"the wheel dataset, the image: {time.monotonic() - start:.0f} s, in {folder}\n")
    print(f"{'variant':<16} {'seconds':>7}  {'what was done':<68} outcome", flush=True)
    failed = []
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(rehearse, stage, name, v, kind) for name, v in chosen.items()]
        for run, (name, variant) in zip(runs, chosen.items()):
            outcome = run.result()
            print(f"{name:<16} {outcome.seconds:7.0f}  {variant.what:<68} {describe(outcome)}")
            for line in outcome.reported:
                print(f"{'':26}{line}", flush=True)
            failed += [name] if outcome.faults else []
    print(f"\n{len(chosen) - len(failed)} of {len(chosen)} variants end as they have to")
    print(f"{time.monotonic() - start:.0f} s")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; their logs are in {folder}")
    if args.into is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
