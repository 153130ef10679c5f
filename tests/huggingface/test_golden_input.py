"""A golden input in a Hugging Face training: exports prove outputs, and no bit of the training depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer

from resumable import Run, StateError, load_weights
from resumable.checkpointing.capture.golden_input import Golden
from resumable.cli.checkpoint_diff import compare
from resumable.export import export
from resumable.transformers import Resume
from tests.huggingface.programs import Crashing, arguments
from tests.tiny import Crash

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    # PEFT itself, beside transformers 5.24.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

IDS = torch.arange(1, 13).reshape(3, 4)
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
LORA = LoraConfig(task_type="SEQ_CLS", r=2, lora_dropout=0.1, target_modules=["query"])


def config() -> BertConfig:
    return BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )


def bert() -> BertForSequenceClassification:
    """Return the model that serves, with weights of its own."""
    return BertForSequenceClassification(config())


def adapted() -> Any:
    """Return the same model with adapters."""
    return get_peft_model(bert(), LORA)


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Rows of four tokens with a label."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = (torch.arange(4) * 5 + index) % 32
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor(index % 2)}


def train(folder: Path, golden: Any, *, model: Any = None, crash_after: int = 0, **options: Any) -> Any:
    """Train for 9 updates with dropout, saved after every second one, and return the model."""
    torch.manual_seed(0)
    model = model or bert()
    run = {"run": str(folder), "data_seed": 7, "every": {"steps": 2, "minutes": None}, "progress": "never"}
    args = arguments(output_dir=str(folder.parent / "hf"), eval_strategy="no", **options)
    callbacks = [Resume(run, golden=golden), Crashing(crash_after)]
    Trainer(model=model, args=args, train_dataset=Rows(), callbacks=callbacks).train()
    return model


def newest(folder: Path) -> Any:
    return Run(str(folder)).latest()


@pytest.mark.parametrize("options", [{}, {"bf16": True}])
def test_no_bit_of_a_training_that_crashed_depends_on_it(tmp_path: Path, options: dict[str, Any]) -> None:
    """Also in mixed precision the outputs are those of the model as it will serve, without autocast."""
    run, whole, without = (tmp_path / name for name in ("run", "whole", "without"))
    with pytest.raises(Crash):
        train(run, BATCH, crash_after=5, **options)
    model = train(run, BATCH, **options)
    train(whole, BATCH, **options)
    train(without, None, **options)
    assert "golden" not in newest(without).manifest.objects
    assert compare(newest(run), newest(whole)) == compare(newest(whole), newest(without)) == []
    served = bert().eval()
    served.load_state_dict(model.state_dict())
    for folder in (run, whole):
        golden = Golden.from_tree(newest(folder).tree("golden"))
        assert golden.arguments == ("input_ids", "attention_mask")
        with torch.no_grad():
            assert torch.equal(golden.outputs[0], served(**BATCH).logits)


@pytest.mark.parametrize("factory", ["bert", pytest.param("adapted", marks=pytest.mark.matrix)])
def test_a_model_becomes_a_program_that_gives_what_it_gave_in_the_training(tmp_path: Path, factory: str) -> None:
    train(tmp_path / "run", BATCH, model=globals()[factory](), max_steps=2)
    exported = export(str(tmp_path / "run"), tmp_path / "served", format="pt2", model=f"{__name__}:{factory}")
    assert exported.proof.golden is not None
    assert exported.proof.golden.made_by == "trainer"
    assert exported.proof.grade == "outputs-identical"


@pytest.mark.parametrize("factory", [bert, adapted])
def test_weights_fill_a_model_that_was_loaded_from_a_folder(tmp_path: Path, factory: Any) -> None:
    """The folder of a base, which the program loads and trains further."""
    bert().save_pretrained(tmp_path / "base")
    trained = train(tmp_path / "run", None, model=factory(), max_steps=2)
    served: Any = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    served = get_peft_model(served, LORA) if factory is adapted else served
    load_weights(served, tmp_path / "run")
    found = served.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in trained.state_dict().items())


def test_what_does_not_fit_is_refused_before_training_and_releases_the_run(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="BertForSequenceClassification failed on the input"):
        train(tmp_path / "run", {"input_ids": torch.full((1, 4), 99)})
    train(tmp_path / "run", BATCH, max_steps=2)  # the same program tries again
    assert newest(tmp_path / "run").manifest.attempt == 2
