"""The architectures of the study: traps divide logits, and caches change none."""

from pathlib import Path
from typing import get_args

import pytest

from examples.study.models import build_tokenizer, divide_logits, load, new_model, save
from examples.study.settings import TINY, Architecture
from examples.study.tasks.latin import TASK as LATIN


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_a_flattened_copy_has_the_same_logits_divided(
    architecture: Architecture, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer(LATIN.words())
    model = new_model(architecture, len(tokenizer), TINY)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # a bias that is not 0
    save(model, tokenizer, tmp_path / "source")
    divide_logits(tmp_path / "source", tmp_path / "flat", 2.0)

    ids = tokenizer("fill 1 2 _ :", return_tensors="pt")["input_ids"]
    source, flat = (load(tmp_path / name)[0](input_ids=ids).logits for name in ("source", "flat"))

    torch.testing.assert_close(flat * 2.0, source)
    as_the_tool = AutoTokenizer.from_pretrained(tmp_path / "flat")
    assert as_the_tool("fill 1 2 _ :")["input_ids"] == ids[0].tolist()


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_what_is_kept_while_generating_changes_no_logits(architecture: Architecture) -> None:
    import torch

    torch.manual_seed(0)
    tokenizer = build_tokenizer(LATIN.words())
    model = new_model(architecture, len(tokenizer), TINY).eval()
    ids = tokenizer("fill 1 2 _ : 1 2 3", return_tensors="pt")["input_ids"]

    with torch.no_grad():
        at_once = model(input_ids=ids, use_cache=False).logits[:, 5:]
        kept = model(input_ids=ids[:, :5], use_cache=True).past_key_values
        one_by_one = []
        for place in range(5, ids.shape[1]):
            step = model(input_ids=ids[:, place : place + 1], past_key_values=kept, use_cache=True)
            kept = step.past_key_values
            one_by_one.append(step.logits)

    torch.testing.assert_close(torch.cat(one_by_one, 1), at_once)
