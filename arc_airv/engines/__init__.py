"""Engines: what turns prompts into replies.

`VllmEngine` is the main one, on CUDA and on CPU; `TransformersEngine` serves where vLLM cannot run;
`RayEngine` is many of them as one; `auto_engine` chooses. They share one contract (`Engine`), and
heavy libraries are imported when an engine is made.
"""

from arc_airv.engines.alphabet import answer_tokens
from arc_airv.engines.base import Completion, Engine, Sampling
from arc_airv.engines.choice import auto_engine, make_engine
from arc_airv.engines.ray import RayEngine
from arc_airv.engines.threshold import Harvest, threshold_search
from arc_airv.engines.transformers import TransformersEngine
from arc_airv.engines.vllm import VllmEngine

__all__ = [
    "Completion",
    "Engine",
    "Harvest",
    "RayEngine",
    "Sampling",
    "TransformersEngine",
    "VllmEngine",
    "answer_tokens",
    "auto_engine",
    "make_engine",
    "threshold_search",
]
