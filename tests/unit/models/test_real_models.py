"""The real small models, logit by logit, against transformers with weights that the `gguf` package dequantised.

The reference shares nothing with redline's reader: its tensors come out of the `gguf` package, by that package's own table
of names, with the converter's permutation undone here. 512 tokens of text: the best token is the same wherever the
reference is sure of it by 1e-3, and the distributions agree to a KL divergence of 1e-4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from paging import PagedSequences, chunked
from redline import checkpoint
from redline.models.load import load
from redline.models.registry import build

NUM_TOKENS = 512
TEXT = """The lighthouse keeper counted the ships by their lamps. Some nights there were none, and he read; on others the
whole horizon moved. He had been told that the new light would need no keeper at all, only a box that called the harbour
when its bulb failed. "And who calls the box?" he asked. Nobody had an answer, so they gave him a medal and a boat ticket.

def merge(left, right):
    result = []
    while left and right:
        result.append(left.pop(0) if left[0] <= right[0] else right.pop(0))
    return result + left + right

In 1897 the first wireless message crossed open water in this bay, over 6 kilometres; today a phone does it 40 times a
second. Water boils at 100 degrees Celsius at sea level and at 93 on the mountain behind the town, which is why the
cooks up there swear by pressure cookers. Fish is sold on Tuesdays; bread every day but Sunday.

| name | kind | since |
| anchor | inn | 1911 |
| gull | bakery | 1987 |

Le phare se voit de loin. Der Leuchtturm steht auf einem Felsen aus Granit. El faro se apaga al amanecer.
The answer to the third question is 42, if x = 6 and y = 7; otherwise see page 118. """


def _reference(path: Path, config: Any, model_class: str) -> Any:
    """The transformers model, filled from the file by the `gguf` package alone."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    arrays = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    with torch.device("meta"):
        model = getattr(transformers, model_class)(config)
    state = {}
    for name in model.state_dict():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored not in arrays:
            assert name == "lm_head.weight" and config.tie_word_embeddings, name
            stored = "token_embd.weight"
        array = arrays[stored]
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if architecture == "llama" and heads is not None:
            array = array.reshape(heads, -1, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        state[name] = torch.from_numpy(np.array(array, dtype=np.float32))
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are not weights and were on "meta"
    return model.eval().requires_grad_(False)


def _compare(path: Path, config: Any, model_class: str) -> None:
    opened = checkpoint.open(str(path))
    tokens = opened.tokenizer().encode(TEXT * 2)[:NUM_TOKENS]
    assert len(tokens) == NUM_TOKENS
    model = build(opened.shape, torch.float32, "cpu", max_len=NUM_TOKENS)
    load(model, opened)
    got = PagedSequences(model, [tokens], page_size=16).run(chunked([tokens], chunk=200, decodes=12))[0]
    with torch.inference_mode():
        expected = _reference(path, config, model_class)(torch.tensor([tokens])).logits[0]
    best = expected.topk(2, dim=-1)
    sure = best.values[:, 0] - best.values[:, 1] > 1e-3
    assert sure.sum() > NUM_TOKENS * 0.98
    assert torch.equal(got.argmax(-1)[sure], best.indices[:, 0][sure])
    wanted_logprobs = expected.log_softmax(-1)
    kl = (wanted_logprobs.exp() * (wanted_logprobs - got.log_softmax(-1))).sum(-1)
    assert kl.max() <= 1e-4


@pytest.mark.real_model
def test_smollm2_gives_transformers_logits(smollm2: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        tie_word_embeddings=True,
    )
    _compare(smollm2, config, "LlamaForCausalLM")


@pytest.mark.real_model
@pytest.mark.soak
def test_qwen_coder_gives_transformers_logits(qwen_coder: Path, effort: int) -> None:
    if effort == 1:
        pytest.skip("takes half a minute and 5 GB: runs in `make soak`")
    config = transformers.Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
    )
    _compare(qwen_coder, config, "Qwen2ForCausalLM")
