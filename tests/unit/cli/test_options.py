"""Flags come from the config: every field has one, and only what the user wrote is handed on."""

from __future__ import annotations

import dataclasses

import click
import pytest
from click.testing import CliRunner

from redline.cli.options import ENGINE_SECTIONS, config_options, sampling_fields, sampling_options, split
from redline.config import EngineConfig, ModelConfig, ServerConfig
from redline.errors import InvalidRequest


@pytest.fixture
def command():
    seen = {}

    @click.command()
    @sampling_options
    @config_options(*ENGINE_SECTIONS, ServerConfig)
    def probe(**options):
        seen.update(options)

    def run(*arguments):
        seen.clear()
        result = CliRunner().invoke(probe, arguments)
        return result, dict(seen)

    return run


def test_every_field_has_a_documented_flag(command):
    """The surface of the command line is the config's: a new field shows up by itself."""
    result, _ = command("--help")
    text = " ".join(result.output.split())
    for section in (*ENGINE_SECTIONS, ServerConfig):
        for field in dataclasses.fields(section):
            if field.name != "model":
                assert "--" + field.name.replace("_", "-") in text
                assert field.metadata["help"] in text
    assert "-tp" in text and "[default: 127.0.0.1]" in text


def test_only_what_the_user_wrote_is_handed_on(command):
    _, options = command("--max-num-seqs", "4", "--no-enable-prefix-caching", "-tp", "2", "--port", "0")
    engine, rest = split(options, *ENGINE_SECTIONS)
    assert engine == {"max_num_seqs": 4, "enable_prefix_caching": False, "tensor_parallel_size": 2}
    assert rest == {"port": 0}
    config = EngineConfig.from_options(model="m", **engine)
    assert config.cache.enable_prefix_caching is False
    assert config.model == ModelConfig(model="m")


@pytest.mark.parametrize("arguments", [("--dtype", "int3"), ("--port", "many"), ("--max-modl-len", "8")])
def test_a_wrong_value_or_name_is_a_usage_error(command, arguments):
    result, _ = command(*arguments)
    assert result.exit_code == 2


def test_sampling_fields_are_checked_before_anything_is_loaded(command):
    _, options = command("--temperature", "0", "--stop", "a", "--stop", "b")
    assert sampling_fields(options) == {"temperature": 0.0, "stop": ("a", "b")}
    _, options = command("--ignore-eos", "--min-tokens", "3", "--frequency-penalty", "0.5", "--presence-penalty", "-1")
    assert sampling_fields(options) == {
        "ignore_eos": True, "min_tokens": 3, "frequency_penalty": 0.5, "presence_penalty": -1.0,
    }  # fmt: skip
    _, options = command("--top-p", "2")
    with pytest.raises(InvalidRequest, match="top_p must be between"):
        sampling_fields(options)
