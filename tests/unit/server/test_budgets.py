"""Budgets against an oracle that remembers every call with its times and knows no slots.

The promise: what calls used, summed over every call that was open at some time of a window, never exceeds the limit,
wherever the window begins. Whoever is refused could not have been let in, and is told when they can be.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.errors import OverLimit, RateLimited
from redline.server.budgets import DAY_S, DAY_SLOT_S, MINUTE_S, MINUTE_SLOT_S, Account, Limits, Reservation, Window

START = 1_800_000_000.25


@dataclass
class Call:
    """`ended` is None while it is open."""

    began: float
    reserved: int
    reservation: Reservation
    ended: float | None = None
    used: int = 0


def most_in_any_window(calls: list[Call], span_s: float) -> int:
    """The most tokens that one window of `span_s` may have seen: of all calls that it overlaps."""
    ends = [(call, float("inf") if call.ended is None else call.ended) for call in calls]
    starts = [edge + shift for call, end in ends for edge in (call.began, end) for shift in (0.0, 1e-6, -1e-6)]
    starts += [start - span_s for start in starts]
    return max(
        (sum(_size(call) for call, end in ends if call.began < start + span_s and end > start) for start in starts),
        default=0,
    )


def counted(calls: list[Call], now: float, span_s: float) -> int:
    """What stands against a new call: open reservations, and what ended in the last `span_s`."""
    return sum(_size(call) for call in calls if call.ended is None or call.ended > now - span_s)


def _size(call: Call) -> int:
    return call.reserved if call.ended is None else call.used


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), minute=st.integers(50, 2000), day=st.none() | st.integers(500, 20_000))
def test_no_window_ever_sees_more_than_the_limit(seed: int, minute: int, day: int | None) -> None:
    rng = random.Random(seed)
    account, limits, now = Account(), Limits(tokens_per_minute=minute, tokens_per_day=day, concurrency=6), START
    calls: list[Call] = []
    for _ in range(120):
        now += rng.choice((0.0, 0.001, 0.3, 2.0, 20.0, 61.0))
        running = [call for call in calls if call.ended is None]
        if running and rng.random() < 0.45:
            call = rng.choice(running)
            call.ended, call.used = now, rng.randint(0, call.reserved)
            call.reservation.settle(call.used, now)
            if rng.random() < 0.3:
                call.reservation.settle(call.reserved, now)  # a second settling is nothing
        else:
            asked = rng.randint(1, max(1, minute // 2))
            try:
                calls.append(Call(now, asked, account.reserve(asked, limits, now)))
            except RateLimited as error:
                slots_later = counted(calls, now, MINUTE_S + MINUTE_SLOT_S) + asked > minute
                day_later = day is not None and counted(calls, now, DAY_S + DAY_SLOT_S) + asked > day
                over_day = day is not None and isinstance(error, OverLimit) and asked > day
                assert len(running) == 6 or slots_later or day_later or over_day, "refused without need"
        running = [call for call in calls if call.ended is None]
        assert account.open == len(running) <= 6 and account.held == sum(call.reserved for call in running)
        used = account._minute.used(now)
        assert 0 <= used <= minute
    assert most_in_any_window(calls, MINUTE_S) <= minute
    assert day is None or most_in_any_window(calls, DAY_S) <= day
    for call in calls:
        call.reservation.settle(0, now)
    assert account.open == account.held == 0, "nothing leaks"


@settings(max_examples=100, deadline=None)
@given(calls=st.lists(st.tuples(st.floats(0, 15), st.integers(1, 60)), min_size=8, max_size=40))
def test_retry_after_is_when_the_same_call_gets_in(calls: list[tuple[float, int]]) -> None:
    account, limits, now = Account(), Limits(tokens_per_minute=100), START
    for pause_s, tokens in calls:
        now += pause_s
        try:
            account.reserve(tokens, limits, now).settle(tokens, now)
        except RateLimited as error:
            wait_s = error.retry_after_s
            assert wait_s is not None and 0 < wait_s <= MINUTE_S + MINUTE_SLOT_S
            with pytest.raises(RateLimited):
                account.reserve(tokens, limits, now + wait_s - 0.001)
            account.reserve(tokens, limits, now + wait_s + 0.001).settle(0, now + wait_s)


def test_a_call_that_used_more_than_it_reserved_is_paid_by_the_next_ones() -> None:
    account, limits = Account(), Limits(tokens_per_minute=100)
    account.reserve(50, limits, START).settle(180, START + 1)
    for later in (2.0, 60.0):
        with pytest.raises(RateLimited):
            account.reserve(1, limits, START + later)
    account.reserve(100, limits, START + 63)


def test_more_than_the_whole_budget_is_told_as_such() -> None:
    for limits in (Limits(tokens_per_minute=10), Limits(tokens_per_day=10), Limits(tokens_per_minute=99, tokens_per_day=10)):
        with pytest.raises(OverLimit, match="11 tokens, and its key is allowed 10 tokens per") as caught:
            Account().reserve(11, limits, START)
        assert not caught.value.retryable


def test_requests_and_calls_together_have_limits_of_their_own() -> None:
    account, limits = Account(), Limits(requests_per_minute=3, concurrency=2)
    first = account.reserve(10**9, limits, START)
    account.reserve(10**9, limits, START)
    with pytest.raises(RateLimited, match="2 calls together"):
        account.reserve(1, limits, START)
    first.settle(0, START + 1)
    account.reserve(1, limits, START + 1)
    with pytest.raises(RateLimited):
        account.reserve(1, limits, START + 1)
    account = Account()
    for _ in range(3):
        account.reserve(1, limits, START).settle(1, START)
    with pytest.raises(RateLimited, match="3 requests per minute") as caught:
        account.reserve(1, limits, START + 30)
    assert 30 <= (caught.value.retry_after_s or 0) <= 31
    account.reserve(1, limits, START + 61)


def test_the_limit_that_leaves_least_is_told() -> None:
    account, limits = Account(), Limits(tokens_per_minute=100, tokens_per_day=150, requests_per_minute=9)
    assert not Limits() and limits and limits.tokens == 100
    account.reserve(80, limits, START).settle(80, START)
    open_call = account.reserve(5, limits, START + 50)
    requests, tokens = account.standing(limits, START + 50)
    assert requests is not None and (requests.limit, requests.remaining) == (9, 7)
    assert tokens is not None and (tokens.limit, tokens.remaining) == (100, 15) and 10 < tokens.reset_s <= 11
    open_call.settle(0, START + 51)
    _, tokens = account.standing(limits, START + 70)
    assert tokens is not None and (tokens.limit, tokens.remaining) == (150, 70)
    assert DAY_S - 200 < tokens.reset_s <= DAY_S
    assert Account().standing(Limits(concurrency=4), START)[0] is not None


def test_a_day_that_is_read_again_frees_nothing_early_and_nothing_late() -> None:
    """After a restart what is known of a slot is its beginning; its tokens may have been used at its end."""
    slot = START // DAY_SLOT_S * DAY_SLOT_S
    account, limits = Account(), Limits(tokens_per_day=100)
    account.restore(90, slot, slot + 500)
    with pytest.raises(RateLimited) as caught:
        account.reserve(20, limits, slot + 600)
    free_at = slot + 600 + (caught.value.retry_after_s or 0)
    assert slot + DAY_SLOT_S + DAY_S <= free_at <= slot + DAY_SLOT_S + DAY_S + 1
    fresh = Account()
    fresh.restore(90, slot, slot + 30)
    with pytest.raises(RateLimited):
        fresh.reserve(20, Limits(tokens_per_minute=100), slot + 40)


def test_a_clock_that_goes_back_frees_nothing_and_breaks_nothing() -> None:
    window = Window(MINUTE_S, MINUTE_SLOT_S)
    window.add(5, START)
    window.add(7, START - 1000)
    assert window.used(START) == 12 and len(window._slots) == 1
    assert window.used(START + 62) == 0 and window.empties_in_s(START + 62) == 0.0


def test_the_books_of_a_key_stay_small() -> None:
    account, limits = Account(), Limits(tokens_per_minute=10**9, tokens_per_day=10**9, requests_per_minute=10**9)
    for i in range(50_000):
        account.reserve(10, limits, START + i * 4).settle(7, START + i * 4)
    assert len(account._day._slots) <= DAY_S / DAY_SLOT_S + 2 and len(account._minute._slots) <= MINUTE_S + 2
