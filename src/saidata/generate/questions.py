"""What the model is asked: the prose every file has, and choices among candidates. Also the schemas that bind the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from saidata.facts import Evidence, Path
from saidata.generate.skeleton import Question

CATEGORIES = (
    "web",
    "database",
    "messaging",
    "mail",
    "dns",
    "networking",
    "security",
    "monitoring",
    "logging",
    "storage",
    "backup",
    "virtualization",
    "containers",
    "infrastructure",
    "version-control",
    "development",
    "programming-language",
    "library",
    "editor",
    "shell",
    "file-management",
    "text-processing",
    "multimedia",
    "graphics",
    "office",
    "publishing",
    "science",
    "education",
    "games",
    "communication",
    "desktop",
    "system",
    "hardware",
    "other",
)

# What the archive's section leaves of the categories; a section that is not here says nothing. One alone is not asked.
_NETWORK = (
    "networking",
    "dns",
    "web",
    "mail",
    "messaging",
    "communication",
    "security",
    "monitoring",
    "storage",
    "infrastructure",
)
_ADMIN = (
    *("system", "monitoring", "logging", "backup", "storage", "security", "infrastructure", "containers", "virtualization"),
    *("networking", "file-management", "database"),
)
_UTILITY = (
    *("system", "file-management", "text-processing", "development", "storage", "backup", "security", "hardware", "monitoring"),
    *("networking", "shell", "multimedia", "office", "science", "containers", "virtualization", "infrastructure", "other"),
)
_CODE = ("development", "programming-language", "library", "text-processing", "web", "science")
SECTIONS: dict[str, tuple[str, ...]] = {
    "admin": _ADMIN,
    "cli-mono": _CODE,
    "comm": ("communication", "messaging", "networking", "hardware"),
    "database": ("database",),
    "devel": ("development", "programming-language", "version-control", "library", "infrastructure", "hardware"),
    "editors": ("editor",),
    "education": ("education",),
    "electronics": ("science", "hardware", "development"),
    "embedded": ("hardware", "development", "system"),
    "fonts": ("publishing",),
    "games": ("games",),
    "gnome": ("desktop", "system", "communication", "multimedia", "office", "development", "games"),
    "golang": _CODE,
    "graphics": ("graphics",),
    "hamradio": ("communication", "hardware"),
    "haskell": _CODE,
    "httpd": ("web",),
    "interpreters": ("programming-language",),
    "java": _CODE,
    "javascript": _CODE,
    "kde": ("desktop", "system", "communication", "multimedia", "office", "development", "games"),
    "kernel": ("system", "hardware"),
    "libs": ("library",),
    "libdevel": ("library",),
    "lisp": _CODE,
    "mail": ("mail",),
    "math": ("science",),
    "net": _NETWORK,
    "news": ("communication",),
    "ocaml": _CODE,
    "perl": _CODE,
    "php": _CODE,
    "python": _CODE,
    "ruby": _CODE,
    "rust": _CODE,
    "science": ("science",),
    "shells": ("shell",),
    "sound": ("multimedia",),
    "tex": ("publishing",),
    "text": ("text-processing", "publishing", "editor", "office"),
    "utils": _UTILITY,
    "vcs": ("version-control",),
    "video": ("multimedia",),
    "web": ("web", "communication", "publishing", "monitoring", "infrastructure"),
    "x11": ("desktop", "graphics", "system", "hardware"),
    "xfce": ("desktop",),
    "zope": ("web",),
}

# One sentence. A full stop inside it is followed by a small letter or a digit, as in Node.js; the first that is not ends it.
SENTENCE = r'^[A-Z0-9]([^.\n"\\]|\.[a-z0-9]){20,200}\.$'
SHORT_NAME = r"^[A-Za-z0-9][A-Za-z0-9 .+\-]{0,30}[A-Za-z0-9+]$"
WORD = r"^[a-z0-9][a-z0-9+\-]{1,20}$"


def prose_questions(evidence: Evidence) -> Iterator[Question]:
    """What is asked of every software that some source describes. Of one that none does, nothing true could be written."""
    if not evidence.of("summary", "description"):
        return
    word = {"type": "string", "pattern": WORD}
    tags = {"type": "array", "items": word, "minItems": 2, "maxItems": 5}
    name, sentence = {"type": "string", "pattern": SHORT_NAME}, {"type": "string", "pattern": SENTENCE}
    yield Question(key="display_name", path=("metadata", "display_name"), kind="words", schema=name)
    yield Question(key="description", path=("metadata", "description"), kind="prose", schema=sentence)
    if len(left := categories(evidence)) > 1:
        yield choice("category", ("metadata", "category"), left, may_abstain=False)
    yield Question(key="subcategory", path=("metadata", "subcategory"), kind="words", schema=word)
    yield Question(key="tags", path=("metadata", "tags"), kind="words", schema=tags)


def categories(evidence: Evidence) -> tuple[str, ...]:
    """The categories that its section leaves open."""
    section = next(iter(evidence.values("section", provider="apt")), "")
    return SECTIONS.get(section.rpartition("/")[2], CATEGORIES)


def choice(key: str, path: Path, allowed: Sequence[str], *, may_abstain: bool = True, as_list: bool = False) -> Question:
    """One of `allowed`, or with `may_abstain` none of them."""
    values: list[str | None] = [*allowed, None] if may_abstain else list(allowed)
    return Question(key=key, path=path, kind="choice", schema={"enum": values}, allowed=tuple(allowed), as_list=as_list)


def answer_schema(questions: Sequence[Question]) -> dict[str, Any]:
    """The JSON object that answers them all, in their order."""
    return {
        "type": "object",
        "properties": {question.key: question.schema for question in questions},
        "required": [question.key for question in questions],
        "additionalProperties": False,
    }
