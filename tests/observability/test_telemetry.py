from one_api.contract import Usage
from one_api.observability.recent import RecentCalls
from one_api.records import AttemptRecord, CallRecord, CandidateRecord


def call(model: str | None, *warnings: str) -> CallRecord:
    record = CallRecord("req_1", "POST", "/v1/chat/completions", model=model, warnings=[*warnings])
    candidates = [CandidateRecord("a/m", "well", 0.5), CandidateRecord("b/m", "open", 1.5, "failed", fallback=True)]
    record.attempts.append(AttemptRecord("a/m", "ok", 0.25, 1.5, Usage(3, 4), candidates))
    return record


def test_a_record_is_given_back_as_it_was_kept() -> None:
    recent = RecentCalls()
    recent.on_call(kept := call("m"))

    assert recent.of("m", 10) == [kept]


def test_the_last_records_of_a_model_are_kept_the_newest_first() -> None:
    recent = RecentCalls(capacity=3)
    for status in range(4):
        recent.on_call(record := call("m"))
        record.status = status  # what becomes of a record later is not seen
        recent.on_call(call("other" if status == 3 else None))

    assert [record.model for record in recent.of("other", 10)] == ["other"]
    assert len(recent.of("m", 10)) == 2
    assert len(recent.of("m", 1)) == 1
    assert {record.status for record in recent.of("m", 10)} == {None}


def test_a_record_that_a_client_has_made_huge_is_not_kept() -> None:
    recent = RecentCalls()
    recent.on_call(call("m" * 1_000_000))
    recent.on_call(call("m", "w" * 1_000_000))

    assert recent.of("m" * 1_000_000, 10) == recent.of("m", 10) == []
