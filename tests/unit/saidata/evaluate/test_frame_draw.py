"""Which packages the gold set is drawn from: names and strata must follow the written rule, or the figures are of something else."""

from __future__ import annotations

import msgspec

from saidata.evaluate import frame


def _binary(name: str, source: str = "", **more: object) -> frame.Binary:
    base = frame.Binary(
        name=name,
        source=source or name,
        version="1",
        section="net",
        size=1000,
        needs=(),
        wants=(),
        homepage="",
        units=0,
        configs=0,
        commands=0,
    )
    return msgspec.structs.replace(base, **more)


ARCHIVE = {
    one.name: one
    for one in (
        _binary("webd", needs=("webd-common", "libc"), units=1),
        _binary("webd-common", "webd", configs=3),
        _binary("webd-doc", "webd", section="doc"),
        _binary("webd-plugin", "webd", commands=1),
        _binary("webd-15", "webd-15", commands=2),
        _binary("meta", needs=("meta-15",)),
        _binary("meta-15", commands=1),
        _binary("libthing", section="libs", commands=1),
        _binary("tool", commands=2, wants=("webd",)),
        _binary("huge", commands=1, size=9_000_000),
        _binary("other-name", "somesource", commands=1),
    )
}


def test_the_scope_is_what_the_main_package_needs_of_its_own_source() -> None:
    assert frame.scope("webd", ARCHIVE) == ("webd", "webd-common")


def test_relatives_are_needed_and_called_alike() -> None:
    assert frame.relatives("meta", ARCHIVE) == ("meta-15",)
    assert frame.relatives("webd", ARCHIVE) == ()


def test_only_programs_of_a_readable_size_that_carry_their_sources_name_are_drawn_from() -> None:
    found = {one.name: one for one in frame.frame(ARCHIVE)}
    assert set(found) == {"webd", "webd-15", "meta-15", "tool"}
    assert found["webd"].kind == "service" and found["tool"].kind == "tool"
    assert found["webd"].needed_by == 1
    assert set(found["webd"].binaries) == {"webd", "webd-common", "webd-plugin"}


def test_popularity_follows_the_rank_and_a_draw_repeats() -> None:
    many = [_binary(f"p{number}", commands=1) for number in range(100)]
    archive = {one.name: one for one in many} | {
        f"u{number}-{user}": _binary(f"u{number}-{user}", "users", wants=(f"p{number}",))
        for number in range(10)
        for user in range(20 - number)
    }
    found = frame.frame(archive)
    assert [one.name for one in found if one.popularity == "head"] == [f"p{number}" for number in range(10)]
    assert sum(one.popularity == "middle" for one in found) == 40
    assert frame.draw(found, 3, 7) == frame.draw(list(reversed(found)), 3, 7)
    assert frame.draw(found, 3, 7) != frame.draw(found, 3, 8)
