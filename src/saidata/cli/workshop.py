"""What `generate` and `batch` share: options of model and evidence, and what is opened for them. Open `Workshop`."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import click
import msgspec

from saidata.batch.answers import StoredAnswers
from saidata.batch.jobs import Settings
from saidata.batch.store import Store
from saidata.cli.options import DEEP, PROVIDERS, opened
from saidata.errors import Misuse, NotHere
from saidata.evaluate.calibrate import load as load_calibration
from saidata.evidence import gather
from saidata.facts import Evidence
from saidata.generate.crew import MODES, SURE, Crew, Mode, together
from saidata.generate.make import Maker, Options
from saidata.index import Index
from saidata.models import Model, open_model
from saidata.places import api_key, work_file

MODEL = "qwen2.5-coder-0.5b"

Command = Callable[..., Any]


_MODEL = (
    click.option(
        "--model", default=MODEL, show_default=True, help="The model, as `redline` or the server at --base-url calls it."
    ),
    click.option("--base-url", default=None, help="Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."),
    click.option("--api-key", default=None, help="Key for that server; better in the environment, as SAIDATA_API_KEY."),
    click.option("--engine", "engine", multiple=True, metavar="NAME=VALUE", help="An option of redline, such as device=cuda:0."),
)
_EVIDENCE = (PROVIDERS, click.option("--deep/--no-deep", default=True, show_default=True, help=DEEP))
_WRITING = (
    click.option(
        "--form",
        type=click.Choice(["json", "yaml"]),
        default="json",
        show_default=True,
        help="How the model writes: what is asked as JSON, or the whole file as YAML.",
    ),
    click.option("--scores/--no-scores", default=False, help="Read log-probabilities, for the confidence of each field."),
    click.option(
        "--repairs", type=click.IntRange(0, 5), default=1, show_default=True, help="How often a file may be asked again."
    ),
    click.option(
        "--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="0: always the likeliest words."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn with a temperature."),
    click.option("--notes", is_flag=True, help="Say behind each value that could not be checked why not, as a comment."),
)
_SEVERAL = (
    click.option("--with", "others", multiple=True, metavar="MODEL", help="Another model, to route to, agree with or turn to."),
    click.option(
        "--mode",
        type=click.Choice(MODES),
        default="route",
        show_default=True,
        help="What several models do: each its kind of software, all every file, or the next where one is not sure.",
    ),
    click.option(
        "--route",
        "rules",
        multiple=True,
        metavar="KIND=MODEL",
        help="This model for a category, or for simple or complex software.",
    ),
    click.option(
        "--sure",
        type=click.FloatRange(0, 1),
        default=SURE,
        show_default=True,
        help="With --mode escalate: below this the next model is asked.",
    ),
)


def model_options(command: Command) -> Command:
    """The options that say who answers, from what, how, and what several models do."""
    return _with(command, (*_MODEL, *_EVIDENCE, *_WRITING, *_SEVERAL))


def who_options(command: Command) -> Command:
    """Of these, the options that say who answers, and what several models do."""
    return _with(command, (*_MODEL, *_SEVERAL))


def _with(command: Command, options: Sequence[Command]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def settings_of(options: dict[str, Any]) -> Settings:
    """The settings of a command's options, which are taken out of `options`."""
    making = {name: options.pop(name) for name in ("form", "scores", "repairs", "temperature", "seed", "notes")}
    return Settings(
        model=options.pop("model"),
        base_url=options.pop("base_url"),
        providers=tuple(options.pop("providers")),
        deep=options.pop("deep"),
        options=making,
        others=tuple(options.pop("others")),
        mode=options.pop("mode"),
        rules=tuple(options.pop("rules")),
        sure=options.pop("sure"),
        engine=engine_options(options.pop("engine")),
    )


def engine_options(texts: Sequence[str]) -> dict[str, Any]:
    """redline's options, from what --engine was given."""
    return dict(_engine_option(text) for text in texts)


def _engine_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Misuse(f"--engine {text[:60]!r} is no option", hint="write it like device=cpu or max_num_seqs=8")
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value


class Workshop:
    """Index, store and model of one command. Each is opened when it is first used, so a run from the cache loads no model."""

    def __init__(self, settings: Settings, *, key: str | None = None, quiet: bool = False):
        self.settings = settings
        self._key = key or api_key()
        self._quiet = quiet
        self._last_stage = ""

    @functools.cached_property
    def index(self) -> Index:
        """The index in use. Raises BadIndex where there is none."""
        return opened()

    @functools.cached_property
    def store(self) -> Store:
        """Jobs, answers, archive."""
        return Store(work_file())

    @functools.cached_property
    def models(self) -> list[Model]:
        """Who answers: the model, and those beside it."""
        settings = self.settings
        return [
            open_model(
                name,
                base_url=settings.base_url,
                key=self._key,
                side_by_side=settings.side_by_side,
                progress=self._stage,
                **settings.engine,
            )
            for name in dict.fromkeys((settings.model, *settings.others))
        ]

    def makers(self, answers: StoredAnswers | None) -> Maker | Crew:
        """Makes files with all models there are, with the answers that are there already."""
        settings = self.settings
        makers = [self._maker(model, answers) for model in self.models]
        return together(makers, cast(Mode, settings.mode), settings.rules, settings.sure)

    def _maker(self, model: Model, answers: StoredAnswers | None) -> Maker:
        options = Options(**self.settings.options)
        if self.settings.mode != "route":
            options = msgspec.structs.replace(options, scores=True)  # votes and doubts rest on them
        table = load_calibration() if options.scores else None
        fitting = table if table is not None and table.model == model.name else None
        return Maker(model, options, cache=answers, calibrate=fitting)

    def evidence(self, name: str) -> Evidence:
        """All that is known of a name. Raises NotHere where that is nothing."""
        found = gather(name, self.index, providers=self.settings.providers, deep=self.settings.deep)
        if not found.of("package"):
            why = "; ".join(f"{provider}: {reason}" for provider, reason in found.not_checked.items())
            raise NotHere(f"nothing is known of {name}{f' ({why})' if why else ''}", hint=f"try `saidata search {name}`")
        return found

    def close(self) -> None:
        """Close what was opened."""
        for model in self.__dict__.pop("models", ()):
            model.close()
        for name in ("store", "index"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stage(self, stage: str, percent: float) -> None:
        if self._quiet or stage == self._last_stage or not sys.stderr.isatty():
            return
        self._last_stage = stage
        click.echo(f"\r{stage:<60}", err=True, nl=False)

    def clear(self) -> None:
        """Take the last stage off the terminal."""
        if self._last_stage:
            click.echo(f"\r{'':<60}\r", err=True, nl=False)
            self._last_stage = ""
