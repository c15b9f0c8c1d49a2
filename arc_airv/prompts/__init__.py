"""Prompts: a view becomes text; a reply becomes a grid or a status."""

from arc_airv.prompts.encoders import STATUSES, encoder_spec, make_encoder
from arc_airv.prompts.format import ChatTemplate, PlainTemplate, PromptFormat
from arc_airv.prompts.tokens import TokenReport, tokenization_report

__all__ = [
    "ChatTemplate",
    "PlainTemplate",
    "PromptFormat",
    "STATUSES",
    "TokenReport",
    "encoder_spec",
    "make_encoder",
    "tokenization_report",
]
