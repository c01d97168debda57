from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicCache

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.samplers.key_value_cache import FIRST_ROOM, SamplingCache
from mlflow_rlrisk.samplers.transformers import TransformersSampler
from tests.tiny_models import write_llama


def test_the_cache_equals_a_dynamic_cache_through_growth_and_dropped_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    config = LlamaConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2)
    ours, theirs = SamplingCache(config), DynamicCache(config=config)

    def step(rows: int, length: int) -> None:
        for layer in range(2):
            keys, values = torch.randn(2, rows, 2, length, 4, generator=generator)
            got = ours.states.update(keys, values, layer)
            expected = theirs.update(keys, values, layer)
            assert torch.equal(got[0], expected[0])
            assert torch.equal(got[1], expected[1])

    step(3, 5)
    slots = torch.tensor([0, 0, 1, 1, 1, 2])
    ours.spread(slots)
    theirs.batch_select_indices(slots)
    for _ in range(FIRST_ROOM + 20):  # beyond the first room
        step(6, 1)
    # rows 1, 4 and 5 end: row 3 moves into the hole at 1
    order = torch.tensor([0, 3, 2])
    ours.keep(torch.tensor([1]), torch.tensor([3]), order)
    theirs.batch_select_indices(order)
    for _ in range(2 * FIRST_ROOM):
        step(3, 1)

    assert ours.states.get_seq_length() == theirs.get_seq_length() == 5 + 3 * FIRST_ROOM + 20


def test_a_sliding_window_samples_what_the_full_forward_pass_says(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, MistralForCausalLM

    folder = write_llama(tmp_path)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=83, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=8,
        max_position_embeddings=256, initializer_range=0.2, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = AssessmentConfig(
        sampling=SamplingConfig(num_samples=4, max_new_tokens=20), device="cpu"
    )
    prompts = [Prompt(id="a", content="1 + 2 + 3 + 4 + 5 ="), Prompt(id="b", content="1+1=")]

    groups = list(TransformersSampler(folder, settings).sample(prompts))

    for group in groups:
        ids = tokenizer(group.prompt.content)["input_ids"]
        for rollout in group.rollouts:
            with torch.no_grad():
                logits = model(torch.tensor([[*ids, *rollout.token_ids.tolist()]])).logits
            logs = torch.log_softmax(logits[0, len(ids) - 1 : -1], dim=-1)
            entropies = -(logs.exp() * logs).sum(-1).numpy()
            assert np.abs(entropies - rollout.entropies).max() < 1e-5
