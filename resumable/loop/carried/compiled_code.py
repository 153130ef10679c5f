"""Recognize the code of a function that `torch.compile` runs in parts, each under a code of its own."""

from __future__ import annotations

import re
import sys
from types import CodeType


def written_code(code: CodeType) -> CodeType:
    """Return the code as its author wrote it, if torch made this one of it, or else the code itself."""
    origins = getattr(sys.modules.get("torch._dynamo.utils"), "orig_code_map", {})
    while code in origins:
        code = origins[code]
    return code


def is_part_of(code: CodeType, whole: CodeType) -> bool:
    """Return whether a frame of this code runs `whole`, from its beginning or from a call that is not compiled."""
    written = code if code is whole else written_code(code)
    if written is whole:
        return True
    continuation = rf"torch_dynamo_resume_in_{re.escape(whole.co_name)}_at_\d+"
    return written.co_filename == whole.co_filename and re.fullmatch(continuation, written.co_name) is not None
