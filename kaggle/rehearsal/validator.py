"""Find faults that keep a submission from being scored, and half-written files in a folder.

This module imports nothing from arc_airv, so that it also finds faults of the library's own checks.
"""

import json
from pathlib import Path

NOTHING = [[0]]


def answers_needed(challenges: dict) -> dict[str, int]:
    """Count the answers that each task needs; one if its entry does not say."""
    needed = {}
    for task_id, entry in challenges.items():
        pairs = entry.get("test") if isinstance(entry, dict) else None
        needed[task_id] = len(pairs) if isinstance(pairs, list) and pairs else 1
    return needed


def submission_faults(path: Path, challenges: dict) -> list[str]:
    """List the faults of a submission to these challenges; none if it can be scored."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return [f"{path.name}: {error}"]
    if not isinstance(content, dict):
        return [f"{path.name}: no object"]
    needed = answers_needed(challenges)
    faults = []
    if list(content) != list(needed):
        faults.append(f"tasks: {sorted(set(content) ^ set(needed))[:5]} too many or missing")
    for task_id, answers in content.items():
        n = needed.get(task_id)
        if not isinstance(answers, list) or len(answers) != n:
            faults.append(f"{task_id}: not {n} answers")
            continue
        for answer in answers:
            if not isinstance(answer, dict) or set(answer) != {"attempt_1", "attempt_2"}:
                faults.append(f"{task_id}: not two attempts")
            elif not all(is_grid(grid) for grid in answer.values()):
                faults.append(f"{task_id}: an attempt is no grid")
    return faults


def is_grid(grid: object) -> bool:
    """Return True for a list of 1 to 30 lists of the same 1 to 30 integers 0 to 9."""
    return (
        isinstance(grid, list)
        and 1 <= len(grid) <= 30
        and all(isinstance(row, list) and 1 <= len(row) <= 30 for row in grid)
        and len({len(row) for row in grid}) == 1
        and all(type(cell) is int and 0 <= cell <= 9 for row in grid for cell in row)
    )


def answered(path: Path) -> dict[str, list[bool]]:
    """Return for each task which of its outputs have an answer."""
    content = json.loads(path.read_text())
    return {
        task_id: [any(grid != NOTHING for grid in answer.values()) for answer in answers]
        for task_id, answers in content.items()
    }


def half_written(folder: Path) -> list[str]:
    """List the incomplete files of a folder: JSON, notebooks, temporary files."""
    faults = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".tmp":
            faults.append(f"{path.name}: was never moved into place")
        elif path.suffix in (".json", ".ipynb", ".jsonl"):
            text = path.read_text()
            parts = [text]
            if path.suffix == ".jsonl":
                *parts, rest = text.split("\n")
                if rest:
                    faults.append(f"{path.name}: half a line at its end")
            try:
                for part in parts:
                    json.loads(part)
            except ValueError as error:
                faults.append(f"{path.name}: {error}")
    return faults
