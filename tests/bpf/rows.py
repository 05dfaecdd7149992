"""All rows, by topic (test_rows.py runs them; perf reuses them)."""

from __future__ import annotations

from tests.bpf import rows_answer, rows_direct, rows_error, rows_node, rows_refusal, rows_service, rows_source
from tests.bpf.row import Row

TOPICS = {
    "direct": rows_direct.ROWS,
    "source": rows_source.ROWS,
    "service": rows_service.ROWS,
    "refusal": rows_refusal.ROWS,
    "answer": rows_answer.ROWS,
    "error": rows_error.ROWS,
    "node": rows_node.ROWS,
}
ROWS: dict[str, Row] = {f"{topic}-{row.name}": row for topic, rows in TOPICS.items() for row in rows}
assert len(ROWS) == sum(map(len, TOPICS.values())), "two rows have one name"
