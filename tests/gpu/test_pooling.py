"""Vectors made on a GPU, against transformers in float32 and against themselves in another batch."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from families import CASES, DTYPES, MAX_LEN, VOCAB, reference_model
from redline.config import EngineConfig
from redline.engine.build import Engine, build
from redline.kernels.tolerance import check
from redline.types import Pooling, Request, SamplingParams

pytestmark = pytest.mark.gpu


def vectors(engine: Engine, prompts: list[list[int]], pooling: Pooling) -> list[torch.Tensor]:
    for i, prompt in enumerate(prompts):
        engine.loop.submit(Request(id=f"p{i}", prompt=prompt, sampling=SamplingParams(), pooling=pooling))
        engine.loop.submit(Request(id=f"a{i}", prompt=prompt[:9], sampling=SamplingParams(max_tokens=5)))
    found: dict[str, bytes] = {}
    while engine.loop.has_work:
        engine.loop.step()
        found |= {chunk.id: chunk.embedding for chunk in engine.loop.take() if chunk.embedding is not None}
    engine.loop.check()
    return [torch.from_numpy(np.frombuffer(found[f"p{i}"], "<f4").copy()) for i in range(len(prompts))]


@pytest.fixture(autouse=True)
def exact_float32() -> None:
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tokens", [11, 512], ids=["chunked", "whole"])
def test_vectors_equal_transformers(dtype: str, tokens: int, tmp_path: Path) -> None:
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    case = CASES["llama_grouped_wide_heads"]
    reference = reference_model(dataclasses.replace(case, settings={**case.settings, "head_dim": 64}), DTYPES[short])
    reference.save_pretrained(tmp_path)
    options = {"device": "cuda:0", "dtype": dtype, "max_model_len": MAX_LEN, "max_num_seqs": 8, "num_pages": 64, "page_size": 16}
    engine = build(EngineConfig.from_options(model=str(tmp_path), max_num_batched_tokens=tokens, **options))
    try:
        draw = random.Random(2)
        prompts = [[draw.randrange(VOCAB) for _ in range(size)] for size in (1, 5, 17, 40, MAX_LEN)]
        with torch.inference_mode():
            hidden = [reference.model(torch.tensor([prompt])).last_hidden_state[0].float() for prompt in prompts]
        for got, states_TD in zip(vectors(engine, prompts, "last"), hidden, strict=True):
            check("last", states_TD[-1], got, "model", short)
        for got, states_TD in zip(vectors(engine, prompts, "mean"), hidden, strict=True):
            check("mean", states_TD.mean(0), got, "model", short)
    finally:
        engine.close()
