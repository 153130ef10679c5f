"""trl's own trainers and callbacks that cannot resume exactly, refused before anything is trained or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from resumable import ConfigError
from resumable.transformers import Resume
from tests.huggingface.programs import Points, arguments, gpt2, trainer

pytestmark = [
    pytest.mark.matrix,  # importing trl takes seconds
    # trl itself, beside transformers 5.24.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.mark.parametrize("name", ["GRPO", "RLOO"])
def test_trainers_that_generate_their_data(tmp_path: Path, name: str) -> None:
    import trl

    from tests.huggingface.families import texts, tokenizer

    chosen = {key: arguments().to_dict()[key] for key in ("report_to", "use_cpu", "gradient_accumulation_steps")}
    config: Any = getattr(trl, f"{name}Config")
    training: Any = getattr(trl, f"{name}Trainer")(
        model=gpt2(),
        reward_funcs=lambda completions, **_: [float(len(each)) for each in completions],
        args=config(output_dir=str(tmp_path / "hf"), bf16=False, num_generations=2, beta=0.0, **chosen),
        train_dataset=Dataset.from_dict({"prompt": texts()}),
        processing_class=tokenizer(),
        callbacks=[Resume(str(tmp_path / "run"))],
    )
    with pytest.raises(ConfigError, match=f"{name}Trainer generates its data"):
        training.train()
    assert not (tmp_path / "run").exists()


def test_the_callback_that_averages_weights(tmp_path: Path) -> None:
    from trl import BEMACallback

    training = trainer([Resume(str(tmp_path / "run")), BEMACallback()], Points(), output_dir=str(tmp_path / "hf"))
    with pytest.raises(ConfigError, match="BEMACallback keeps averaged weights"):
        training.train()
    assert not (tmp_path / "run").exists()
