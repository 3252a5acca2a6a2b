"""What a rule is: `rule` makes one of a function, `Look` is what the function sees, `RULES` holds them by code.

The first line of a rule's docstring is its title, the rest its page (docs/saidata/rules.md is generated from them). A rule yields
places and sentences; code, severity, line and column are added here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from saidata.errors import Misuse
from saidata.facts import Evidence, Finding, Path, Severity, Verdict
from saidata.format.document import Text

Said = Iterator[tuple[Path, str]]

LONGEST_MESSAGE = 400  # a value of a megabyte is no help in a message

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


class Fetched(Struct, frozen=True, kw_only=True):
    """What opening an address gave. `status` 0: it was not opened, and `reason` says why."""

    status: int
    reason: str = ""
    final: str = ""  # where redirects led
    date: str = ""  # when it was opened, ISO 8601
    missing: bool = False  # the page says itself that it is not there, whatever its status


class Trial(Struct, frozen=True, kw_only=True):
    """What a dry run of an installation said. `ran` is False where it could not be tried, and `reason` says why."""

    ran: bool
    worked: bool = False
    reason: str = ""


class Look(Struct, frozen=True, kw_only=True):
    """What a rule sees of one file."""

    text: Text
    data: Mapping[str, Any]  # of this file alone
    whole: Mapping[str, Any]  # with its default file, where it is an overlay
    version: str  # "0.1", "0.2" or "0.3": what it is read as
    strict: bool = False
    overlay: bool = False
    place: tuple[str, ...] = ()  # the last parts of its path, (..., "ng", "nginx", "default.yaml")
    evidence: Evidence | None = None
    verdicts: Sequence[Verdict] = ()
    fetched: Mapping[str, Fetched] = field(default_factory=dict)  # by address; empty: none was opened
    digests: Mapping[str, str] = field(default_factory=dict)  # by address: "sha256:..." of what was downloaded
    trials: Mapping[tuple[str, str], Trial] = field(default_factory=dict)  # by (provider, package)

    def of(self, *keys: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        """The entries of these lists, wherever they stand: at the top, under a provider, under a repository."""
        for holder, where in holders(self.data):
            for key in keys:
                entries = holder.get(key)
                for place, entry in enumerate(entries if isinstance(entries, list) else ()):
                    if isinstance(entry, Mapping):
                        yield (*where, key, place), entry


Judge = Callable[[Look], Said]


class Rule(Struct, frozen=True, kw_only=True):
    """One rule: its code, how bad a breach is, and the function that finds breaches."""

    code: str
    severity: Severity
    name: str
    judge: Judge

    @property
    def title(self) -> str:
        """The first line of its page."""
        return (self.judge.__doc__ or "").strip().partition("\n")[0]


RULES: dict[str, Rule] = {}


def rule(code: str, severity: Severity) -> Callable[[Judge], Judge]:
    """Make a rule of a function; its name, with - for _, is the rule's name."""

    def register(judge: Judge) -> Judge:
        assert code not in RULES, f"two rules have the code {code}"
        RULES[code] = Rule(code=code, severity=severity, name=judge.__name__.replace("_", "-"), judge=judge)
        return judge

    return register


def findings(look: Look, codes: Sequence[str]) -> Iterator[Finding]:
    """What the rules of these codes say of a file, in their order."""
    for code in codes:
        made = RULES[code]
        severity: Severity = "error" if look.strict and code == "SD103" else made.severity
        for path, message in made.judge(look):
            line, column = look.text.place(path)
            short = message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + "..."
            yield Finding(code=code, severity=severity, message=short, path=path, line=line, column=column)


def chosen(select: Sequence[str], ignore: Sequence[str]) -> list[str]:
    """The codes that are asked for: "SD7" means every code that begins so. Raises Misuse for one that means none."""
    for wanted in (*select, *ignore):
        if not any(code.startswith(wanted) for code in RULES) or not wanted:
            raise Misuse(f"There is no rule {wanted}.", "`saidata lint --rules` lists them")
    return [
        code
        for code in sorted(RULES)
        if (not select or code.startswith(tuple(select))) and not (ignore and code.startswith(tuple(ignore)))
    ]


def holders(data: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Path]]:
    """The objects that hold lists of resources: the document, each provider, each repository."""
    yield data, ()
    providers = data.get("providers")
    for provider, config in (providers if isinstance(providers, Mapping) else {}).items():
        if not isinstance(config, Mapping):
            continue
        yield config, ("providers", provider)
        for key in ("repositories", "package_sources"):
            entries = config.get(key)
            for place, entry in enumerate(entries if isinstance(entries, list) else ()):
                if isinstance(entry, Mapping):
                    yield entry, ("providers", provider, key, place)


def scalars(data: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every single value and its place."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from scalars(value, (*path, key))
    elif isinstance(data, list):
        for place, value in enumerate(data):
            yield from scalars(value, (*path, place))
    else:
        yield path, data
