"""The SQL of the queue: what `farebox.calls` is for the rest."""

from __future__ import annotations

from typing import Final

from farebox.calls import Call
from farebox.models import TicketOutcome
from farebox.queue_models import (
    BatchCounts,
    DeadRequest,
    DroppedRequest,
    PausedCompany,
    QueuedRequest,
    QueueId,
    QueueMetrics,
    RetriedRequest,
)

ENQUEUE_TICKETS = Call("enqueue_tickets", (("p_batch", "json"),), QueueId, writes=True)
QUEUED_OUTCOMES = Call(
    "queued_outcomes", (("p_queue_ids", "bigint[]"), ("p_batch", "json")), TicketOutcome, writes=True
)
QUEUE_SIZE = Call("queue_size", (), int)
QUEUE_METRICS = Call("queue_metrics", (), QueueMetrics)

PROCESS_TICKET_QUEUE = Call("process_ticket_queue", (("p_limit", "int"),), BatchCounts, writes=True)
BEGIN_QUEUED_REQUEST = Call(
    "begin_queued_request",
    (("p_unfinished_only", "boolean"),),
    int,
    writes=True,
    sql="select b.id from farebox.begin_queued_request(p_unfinished_only => $1::boolean) as b(id)"
    " where b.id is not null",
)
PROCESS_QUEUED_REQUEST = Call("process_queued_request", (("p_queue_id", "bigint"),), BatchCounts, writes=True)
BLAMELESS_ERRORS = Call("blameless_errors", (), str)

LIST_QUEUED_REQUESTS = Call(
    "list_queued_requests",
    (
        ("p_limit", "int"),
        ("p_company_id", "uuid"),
        ("p_transaction_id", "text"),
        ("p_state", "text"),
        ("p_after_queue_id", "bigint"),
    ),
    QueuedRequest,
)
LIST_DEAD_REQUESTS = Call(
    "list_dead_requests",
    (
        ("p_limit", "int"),
        ("p_company_id", "uuid"),
        ("p_transaction_id", "text"),
        ("p_reason", "text"),
        ("p_after_last_seen_at", "timestamptz"),
        ("p_after_key", "text"),
    ),
    DeadRequest,
)
RETRY_QUEUED_REQUESTS = Call("retry_queued_requests", (("p_keys", "text[]"),), RetriedRequest, writes=True)
DROP_QUEUED_REQUESTS = Call("drop_queued_requests", (("p_keys", "text[]"),), DroppedRequest, writes=True)
PAUSE_COMPANY_QUEUE = Call("pause_company_queue", (("p_company_id", "uuid"),), int, writes=True)
RESUME_COMPANY_QUEUE = Call("resume_company_queue", (("p_company_id", "uuid"),), int, writes=True)
LIST_PAUSED_COMPANIES = Call("list_paused_companies", (), PausedCompany)

# Channels of NOTIFY: requests are stored while a worker sleeps; requests are settled while somebody waits.
LISTEN_FOR_WORK: Final = "listen farebox_queue"
LISTEN_FOR_OUTCOMES: Final = "listen farebox_settled"
