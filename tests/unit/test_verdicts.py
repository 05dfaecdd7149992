"""Every verdict has one text, in bpf/lib/abi.h."""

from __future__ import annotations

from pathlib import Path

import pytest

from datapath import verdicts
from datapath.abi import Verdict
from datapath.verdicts import DROP, EVENT, VERDICT

HEADER = Path(__file__).parents[2] / "bpf" / "lib" / "abi.h"


def test_every_verdict_has_a_meaning_and_a_name_of_its_own() -> None:
    reasons = verdicts.read()
    assert reasons.keys() == set(Verdict)
    assert all(reason.meaning.strip() and "*/" not in reason.meaning for reason in reasons.values())
    names = [reason.name for reason in reasons.values() if not reason.retired]
    assert len(set(names)) == len(names)


def test_names_are_lower_case_with_dashes() -> None:
    reason = verdicts.read()[Verdict.DROP_NO_BACKEND]
    assert (reason.number, reason.kind, reason.name) == (32, DROP, "no-backend")
    assert reason.meaning == "the Service has no endpoints; the pod is told"
    assert verdicts.kind_of(Verdict.EVENT_STALE_PAIR) == EVENT
    assert verdicts.kind_of(Verdict.VERDICT_PASS) == VERDICT


def test_retired_numbers_say_so() -> None:
    reasons = verdicts.read()
    assert reasons[Verdict.VERDICT_FOREIGN_SOURCE].retired
    assert not reasons[Verdict.DROP_FOREIGN_SOURCE].retired


def test_a_verdict_without_a_comment_is_an_error(tmp_path: Path) -> None:
    """Also one whose comment is on another line."""
    bare = tmp_path / "abi.h"
    bare.write_text(HEADER.read_text().replace("DROP_REWRITE = 35, /*", "DROP_REWRITE = 35,\n/*"))
    with pytest.raises(KeyError, match="DROP_REWRITE"):
        verdicts.read(bare)
