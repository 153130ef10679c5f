"""What difference passes where nothing is asked for: by the dtypes of the outputs, the finest of which decides."""

from __future__ import annotations

import pytest

from resumable.export.request import ExportRequest
from resumable.export.tolerance import default_tolerance


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float32"], 1e-4),
        (["float64", "float16"], 1e-4),
        (["bfloat16"], 1e-2),
        (["bfloat16", "float16"], 1e-3),
        (["bfloat16", "float32"], 1e-4),
        (["bfloat16", "int64", "bool"], 1e-2),
        (["int64"], 1e-4),
        ([], 1e-4),
    ],
)
def test_the_finest_of_the_outputs_decides_and_whole_numbers_do_not(dtypes: list[str], expected: float) -> None:
    assert default_tolerance(dtypes) == expected


def test_what_was_asked_for_wins() -> None:
    wanted = ExportRequest("onnx", "model", "m:f", None, None, 0.5, "dynamic")
    assert wanted.tolerance_for(["float32"]) == 0.5
