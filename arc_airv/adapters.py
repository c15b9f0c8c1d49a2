"""peft, on machines that hold a library which it refuses to work beside."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


def import_peft() -> ModuleType:
    """Import peft so that an old torchao does not stop it.

    peft raises at the first adapter if it finds a torchao that is older than it supports, whether
    or not anything of it is used. Colab's image of June 2026, which Kaggle builds upon, holds peft
    0.19.1 with torchao 0.10, where 0.16 is the oldest. Such a torchao is hidden from this process.
    """
    peft = importlib.import_module("peft")
    checks = importlib.import_module("peft.import_utils")
    try:
        checks.is_torchao_available()
    except ImportError:
        sys.modules["torchao"] = None  # to importlib: there is none
    return peft
