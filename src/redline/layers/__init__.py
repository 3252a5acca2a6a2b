"""What decoders are made of: linear, attention, norm, rope, embed, mlp, moe, and the records a step reads.

Layers compute with the ops of `kernels/` and know nothing of families, files or requests. Each names the checkpoint
tensors it is made of (`slots`), and the loader fills them. Open `batch.py` first, then `decoder.py`.
"""
