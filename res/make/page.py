"""Make the example page and its picture, res/page.html and res/page.png (with chromium)."""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from arc_airv.metrics import read_results
from arc_airv.plots import browse
from arc_airv.tasks import load_tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", default="res/dumps/1024/t0.00.jsonl.gz")
    parser.add_argument("--tasks", default="arc-agi-1/evaluation")
    parser.add_argument("--title", default="ARC-AGI-1 evaluation")
    parser.add_argument("--view", default="", help="fragment of the picture")
    parser.add_argument("--into", default="res", type=Path)
    args = parser.parse_args()
    tasks = load_tasks(args.tasks)
    page = browse(read_results(args.predictions, tasks), tasks, title=args.title)
    html = page.save(args.into / "page.html").resolve()
    picture = (args.into / "page.png").resolve()
    command = [shutil.which("chromium") or "chromium", "--headless=new", "--no-sandbox"]
    with tempfile.TemporaryDirectory() as profile:
        command += [f"--user-data-dir={profile}", "--hide-scrollbars", "--window-size=1440,1060"]
        command += ["--virtual-time-budget=5000", f"--screenshot={picture}"]
        fragment = f"theme=light&{args.view}"
        subprocess.run([*command, f"{html.as_uri()}#{fragment}"], check=True, capture_output=True)
    for path in (html, picture):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
