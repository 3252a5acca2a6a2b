"""schemathesis on the server's own description, over a real socket: no 500, no hang, no answer that is not described.

Positive cases follow the schemas and meet the deeper checks; negative ones break them in one place. Each case has a time
within which it must be answered. A status of 503 or 504 is an answer: of a server that loads, or to a deadline of 1 ms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from fake_server import Served, served

TIMEOUT_S = 10.0
EXAMPLES = {GenerationMode.POSITIVE: 4, GenerationMode.NEGATIVE: 1}  # of each operation; fifty times as many under --soak
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(max_model_len=256) as running:
        yield running


@pytest.mark.soak
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_nothing_fails_hangs_or_answers_what_it_does_not_say(server: Served, mode: GenerationMode, effort: int) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen: Counter[int] = Counter()
    asked = 0
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation = found.ok()
            asked += _ask(operation, session, mode, EXAMPLES[mode] * effort, seen)
    assert asked >= EXAMPLES[mode] * 20
    assert seen[200] >= 10 if mode is GenerationMode.POSITIVE else seen[400] > seen[200], seen
    assert requests.get(f"{server.url}/health", timeout=TIMEOUT_S).json() == {"status": "ready"}
    assert server.metric("redline_requests_open") == 0, "something still runs"


def _ask(operation: Any, session: requests.Session, mode: GenerationMode, examples: int, seen: Counter[int]) -> int:
    """Send cases of one operation and check every answer; returns how many there were."""
    count = 0

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        nonlocal count
        response = case.call(session=session, timeout=TIMEOUT_S)
        count += 1
        seen[response.status_code] += 1
        assert response.status_code != 500, (case.as_curl_command(), response.text)
        assert "Traceback" not in response.text
        case.validate_response(response, checks=CHECKS)

    try:
        ask()
    except Exception as error:
        if "Unsatisfiable" not in type(error).__name__ and "cannot be negated" not in str(error):
            raise
    return count
