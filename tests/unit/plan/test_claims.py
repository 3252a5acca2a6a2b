"""Claims of others: every verdict agrees with its figures, and the page names no place of this machine."""

from __future__ import annotations

import re

import pytest

from redline.plan import judges
from redline.plan.claims import CLAIMS, page
from redline.plan.judges import NO, PART, YES

ALL = {claim.ids: claim for _, claims in CLAIMS for claim in claims}


def test_every_claim_is_judged_and_the_page_holds_them_all() -> None:
    text = page()
    for claim in ALL.values():
        told = claim.judge()
        assert told.verdict in (YES, NO, PART) and told.floor and told.would
        assert f"| {claim.ids} | {claim.text} | {told.verdict} |" in text
    assert page() == text  # nothing of the time or the machine is in it
    assert not re.search(r"(?<![\w/])/(?:work|home|root|tmp)/", text)
    assert len(ALL) >= 30


@pytest.mark.parametrize(
    ("ids", "said"),
    [  # figures that other people's arithmetic gives for the same claims
        ("NO104", "at most 77"),  # 320 GB/s over 4.1 GB: about 78 tok/s
        ("NO105", "at most 40"),
        ("NO096", "259 ms"),  # 4 GB over PCIe 3: about 0.3 s
        ("HM058, HM097", "GB10 0.50 in bf16, 0.26 in 8 bits, 0.15"),  # floors 0.501, 0.262 and 0.155
        ("KP008", "bandwidth 1.60x"),
        ("HM009, HM039", "500 TFLOP/s"),
    ],
)
def test_floors_are_what_others_reckoned(ids: str, said: str) -> None:
    assert said in ALL[ids].judge().floor


def test_verdicts_follow_the_limits() -> None:
    made = judges.predictor("llama-2-7b", "t4", "q4_k_m")
    assert 1 / judges.limit_s(made, 1, 256) < 180 and ALL["NO104"].judge().verdict == NO
    assert judges.single_stream("llama-2-7b", 180).verdict == NO
    assert ALL["SG004, SG014"].judge().verdict == NO and ALL["KP011, KP200"].judge().verdict == YES
