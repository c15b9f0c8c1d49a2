# Added by kaggle/prepare.py. Write a submission that can be scored, before anything can fail.
import json
from pathlib import Path

INPUT = Path("/kaggle/input")


def n_outputs(task):
    """Count the answers that an entry of the challenges file needs, however malformed it is."""
    pairs = task.get("test") if isinstance(task, dict) else None
    return len(pairs) if isinstance(pairs, list) and pairs else 1


challenges = sorted(INPUT.rglob("arc-agi_test_challenges.json"))
if not challenges:
    raise FileNotFoundError(f"no arc-agi_test_challenges.json under {INPUT}: is it attached?")
nothing = {"attempt_1": [[0]], "attempt_2": [[0]]}
entries = json.loads(challenges[0].read_text())
submission = {task_id: [nothing] * n_outputs(task) for task_id, task in entries.items()}
Path("submission.json").write_text(json.dumps(submission))
print(f"submission.json: {len(submission)} tasks, none answered yet")
