"""256 clients at once on the real engine, a third of them leaving in the middle, a tenth sending garbage. A quarter of them
without --soak.

The flood has always as many exchanges as clients: whatever happens, nothing is lost, told twice, leaked or grown. The paced
crowd sends the same load in every window, bad clients only in every other one: good clients hardly feel them.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Callable, Iterator

import httpx2
import pytest

from crowd import GARBAGE, Latency, Tally, Window, run
from real_server import RealServer, children, real_server, until

CLIENTS = (154, 77, 25)  # good, leaving, garbage: 60, 30 and 10 per cent
FEW = (38, 19, 7)
PARTS = 4  # two without --soak
FLOOD_S = 1.5  # of one part; 5 minutes in all under --soak
PACED_S = 3.0  # half of it with bad clients; 2.5 minutes in all under --soak
WINDOW_S = 15.0
PERIOD_S = 15.0  # in which each client of the paced crowd begins one exchange
GROWTH_BYTES = 24 << 20  # of one process, over the last part of the flood, when it is warm
WORSE = 1.3


@pytest.fixture(scope="module")
def server(effort: int) -> Iterator[RealServer]:
    """Rows for all, and pages for two thirds of them or for half of a few: preemption never ends. oneDNN: see test_storm.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
        patch.setenv("REDLINE_LOG", "warning")  # hundreds of lines a second are no help to anybody
        pages = ("--num-pages", "900" if effort > 1 else "170", "--page-size", "16", "--max-model-len", "512")
        with real_server(*pages, "--max-num-seqs", "256", "--dtype", "float32", "--no-look-ahead") as running:
            yield running


def settled(server: RealServer) -> bool:
    """Nothing runs, waits or holds a page."""
    names = ("redline_requests_running", "redline_requests_waiting", "redline_kv_usage_ratio")
    return all(server.metric(name) == 0 for name in names)


def ended(server: RealServer) -> int:
    """Choices that ended, as the server counts them."""
    page = httpx2.get(f"{server.url}/metrics").text.splitlines()
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in page if line.startswith("redline_requests_total")))


def check_whole(server: RealServer, tallies: list[Tally], before: int) -> None:
    """Every request that was let in ended once, for its client and in the counters; the server is as it was."""
    faults = sum((tally.faults for tally in tallies), Counter[str]())
    assert not faults, faults
    until(lambda: settled(server))
    taken, unsure = sum(tally.taken for tally in tallies), sum(tally.unsure for tally in tallies)
    assert taken <= ended(server) - before <= taken + unsure
    assert children(server.process.pid) == [server.engine_pid], "the engine was lost"
    assert httpx2.get(f"{server.url}/health").json() == {"status": "ready"}


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_flood_of_good_and_bad_clients_leaves_nothing_behind(
    server: RealServer, effort: int, record_property: Callable[[str, object], None]
) -> None:
    tallies, sizes, before = [], [], ended(server)
    clients = CLIENTS if effort > 1 else FEW
    for part in range(PARTS if effort > 1 else 2):
        flood = run(server.url, clients=clients, tokens=48, windows=[True], window_s=FLOOD_S * effort, seed=part)
        tallies.append(asyncio.run(flood)[0])
        until(lambda: settled(server))
        sizes.append(server.rss_bytes())
    check_whole(server, tallies, before)
    ends = sum((tally.ends for tally in tallies), Counter[str]())
    record_property("ends", dict(ends))
    record_property("rss_bytes", sizes)
    assert max(tally.most_open for tally in tallies) > 0.9 * (clients[0] + clients[1]), "it was no flood"
    assert ends["good"] > clients[0] and ends["left"] > clients[1]
    assert sum(ends[f"garbage {kind}"] > 0 for kind in GARBAGE) > len(GARBAGE) * 2 / 3
    assert server.metric("redline_preemptions_total") > 0, "the pool was not small enough to test anything"
    # In a few seconds the engine still meets new numbers of tokens, for each of which oneDNN makes and keeps code (launch.py).
    processes = slice(None) if effort > 1 else slice(1)
    assert all(after - before < GROWTH_BYTES for before, after in list(zip(*sizes[-2:], strict=True))[processes]), sizes


def seconds(latencies: list[Latency]) -> dict[str, float]:
    """To the first bytes and to the last, in the middle and for the slowest twentieth."""
    firsts, wholes = [one.first_s for one in latencies], [one.whole_s for one in latencies]
    return {
        "first median": statistics.median(firsts),
        "whole median": statistics.median(wholes),
        "first 95": statistics.quantiles(firsts, n=20)[-1],
        "whole 95": statistics.quantiles(wholes, n=20)[-1],
    }


def within(tally: Tally, windows: list[Window], *, bad: bool) -> list[Latency]:
    return [one for one in tally.good for window in windows if window.bad == bad and window.holds(one, settle_s=0.5)]


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_good_clients_hardly_feel_bad_ones(
    server: RealServer, effort: int, record_property: Callable[[str, object], None]
) -> None:
    """Compared at full length only: in a second nobody can tell a bad client from a neighbour's compiler."""
    before, whole = ended(server), effort > 1
    crowd = run(
        server.url,
        clients=CLIENTS if whole else FEW,
        tokens=64,
        windows=[False, True] * (round(PACED_S * effort / WINDOW_S / 2) or 1),
        window_s=WINDOW_S if whole else PACED_S / 2,
        period_s=PERIOD_S if whole else 1.0,
    )
    tally, been = asyncio.run(crowd)
    check_whole(server, [tally], before)
    assert tally.ends["good"] > 0 and tally.ends["left"] > 0
    if whole:
        calm, stormy = (seconds(within(tally, been, bad=bad)) for bad in (False, True))
        record_property("calm", calm)
        record_property("stormy", stormy)
        assert all(stormy[name] < WORSE * calm[name] for name in ("first median", "whole median", "whole 95")), (calm, stormy)
