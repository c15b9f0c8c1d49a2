"""check-gpu: on a machine without a GPU it runs at toy size, and a fault is a fault."""

import pytest

torch = pytest.importorskip("torch")

from arc_airv.__main__ import main  # noqa: E402
from arc_airv.training import check_gpu as checks  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_command_ends_with_a_table(random_model, capsys):
    assert main(["check-gpu", str(random_model), "--toy"]) == 0
    said = capsys.readouterr().out
    table = said[said.index("| check |") :].splitlines()[2:]
    names = [row.split(" | ")[0].removeprefix("| ") for row in table]
    assert [row.endswith("| ok |") for row in table] == [True] * len(table)
    for name in ("greedy as on the CPU", "scores as on the CPU", "beams", "seeds", "adapters"):
        assert name in names
    for name in ("one prompt at a time", "a task's prompts", "all prompts"):
        assert f"batching toy: {name}" in names
    assert {"training toy", "fine-tuning toy"} <= set(names)


def test_a_check_that_fails_is_a_row_and_the_others_run(monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("out of memory")
        yield

    def unforeseen(*_):
        raise KeyError("an option that this version does not know")
        yield

    for name in ("check_batching", "check_training"):
        monkeypatch.setattr(checks, name, broken)
    monkeypatch.setattr(checks, "check_contract", unforeseen)
    monkeypatch.setattr(checks, "check_finetuning", lambda *_: iter([("tuning", "fast", "ok")]))
    assert main(["check-gpu", "--toy"]) == 1
    said = capsys.readouterr()
    assert "RuntimeError('out of memory')" in said.out and "| tuning | fast | ok |" in said.out
    assert "not as it should be: contract, batching toy, training toy" in said.err


@pytest.mark.parametrize(("shape", "millions"), [("30M", 30), ("0.5B", 494), ("4B", 4022)])
def test_shapes_are_those_of_known_models(shape, millions):
    model = checks.random_network(shape, torch.bfloat16, torch.device("meta"))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
