"""An execution told by hooks or by the API gives the spans n8n itself would have sent: where, when, how it ended."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import sampling

from elf_automations.conventions import elf
from elf_automations.instrumentation.n8n import event_outcome, record_execution
from elf_automations.model import SpanRecord, settle
from elf_automations.model.from_sdk import SdkSpans
from elf_automations.model.n8n_excerpt import excerpt
from elf_automations.model.n8n_execution import Execution, read_execution
from elf_automations.model.n8n_synthesis import spans_of
from n8n_captures import NOW_NS, document, documents_of_hooks, hook_events, spans_of_document, spans_of_event
from telemetry import fresh_pipeline
from tracing import Spans

TRACED = "946e5c7d0817b6ef1063ef22cc049650"


def execution(**told: Any) -> dict[str, Any]:
    return {
        "id": "7", "status": "success", "mode": "webhook", "startedAt": "2026-11-22T07:07:57.108Z",
        "stoppedAt": "2026-11-22T07:07:57.277Z", **told,
    }  # fmt: skip


def node(name: str, **told: Any) -> dict[str, Any]:
    start = {"startTime": 1_795_331_277_173, "executionTime": 30, "status": "success"}
    return {"name": name, "type": "n8n-nodes-base.httpRequest", "run": 0, **start, **told}


def read(workflow_id: str = "wf_1", settings: dict[str, Any] | None = None, **told: Any) -> Execution:
    found = read_execution({"id": workflow_id, "name": "Intake", "settings": settings or {}}, execution(**told))
    assert found is not None
    return found


def made(found: Execution, *above: Execution) -> tuple[SpanRecord, ...]:
    return spans_of(found, now_ns=NOW_NS, above=above)


@pytest.mark.parametrize("name", ["success", "failure_with_error_workflow"])
def test_hooks_and_api_tell_the_same(name: str) -> None:
    events, documents = hook_events(name), documents_of_hooks(name)
    assert len(events) == len(documents) > 0
    for event, told in zip(events, documents, strict=True):
        by_hook, by_api = spans_of_event(event), spans_of_document(told)
        for mine, theirs in zip(by_hook, by_api, strict=True):
            # The event has the version that is published now, the API the one that ran; whose project it is the API
            # says with the workflow.
            apart = {"n8n.workflow.version_id", "n8n.project.id"}
            said = {name: value for name, value in mine.attributes.items() if name not in apart}
            assert replace(mine, attributes=said) == theirs


def test_an_execution_continues_the_trace_of_its_caller() -> None:
    root, *nodes = spans_of_document(documents_of_hooks("success")[0])
    assert (root.trace_id.hex(), (root.parent_span_id or b"").hex(), root.trace_state) == (
        TRACED, "34da64a1ba82b0e8", "h3=1",
    )  # fmt: skip
    assert [span.name for span in (root, *nodes)] == ["workflow.execute", *["node.execute"] * 4]
    assert {(span.trace_id, span.parent_span_id) for span in nodes} == {(root.trace_id, root.span_id)}
    (untraced, *_) = spans_of_document(document("success"))
    assert untraced.parent_span_id is None


def test_telling_it_again_is_telling_the_same() -> None:
    for name in ("success", "failure", "execution_timeout"):
        assert spans_of_document(document(name)) == spans_of_document(document(name))
    here, there = (spans_of_document(document("failure"), instance=name) for name in ("here", "there"))
    assert not {span.span_id for span in here} & {span.span_id for span in there}


def test_a_retry_is_a_trace_of_its_own_linked_to_what_it_repeats() -> None:
    """Its data holds the first attempt's webhook, which ran before and belongs to another trace."""
    first, _ = documents_of_hooks("failure_with_error_workflow")
    original = spans_of_document(first)[0]
    root, *nodes = spans_of_document(document("failure"))
    assert (root.parent_span_id, root.trace_state) == (None, "")
    assert [(link.trace_id, link.span_id) for link in root.links] == [(original.trace_id, original.span_id)]
    assert [span.attributes["n8n.node.name"] for span in nodes] == ["Charge card"]
    assert root.attributes["n8n.execution.retry_of"] == "9"


@pytest.mark.parametrize(
    "header",
    [
        None, 7, "", f"00-{'0' * 32}-34da64a1ba82b0e8-01", f"00-{TRACED}-{'0' * 16}-01",
        f"00-{TRACED.upper()}-34da64a1ba82b0e8-01", f"01-{TRACED}-34da64a1ba82b0e8-01", f"00-{TRACED}-34da64a1ba82b0e8",
    ],
)  # fmt: skip
def test_a_caller_that_cannot_be_read_begins_a_trace_as_in_n8n(header: Any) -> None:
    (root,) = made(read(traceparent=header, tracestate="h3=1"))
    assert (root.parent_span_id, root.trace_state) == (None, "")
    assert (root.trace_id, root.span_id) == (made(read())[0].trace_id, made(read())[0].span_id)


def test_a_sub_workflow_hangs_below_the_node_that_called_it_and_so_does_its_own() -> None:
    sub = {"executionId": "8", "workflowId": "wf_2"}
    top = read(traceparent=f"00-{TRACED}-34da64a1ba82b0e8-01", nodes=[node("Before"), node("Run", subExecutions=[sub])])
    middle = read("wf_2", id="8", mode="integrated", parentExecution={"executionId": "7", "workflowId": "wf_1"})
    last = read("wf_3", id="9", mode="integrated", parentExecution={"executionId": "8", "workflowId": "wf_2"})
    spans = {span.span_id: span for one in (made(top), made(middle, top), made(last, middle, top)) for span in one}
    (middle_root,) = made(middle, top)
    (last_root,) = made(last, middle, top)
    assert {span.trace_id.hex() for span in spans.values()} == {TRACED}
    assert spans[middle_root.parent_span_id or b""].attributes["n8n.node.name"] == "Run"
    assert last_root.parent_span_id == middle_root.span_id
    rows = {row.workflow_id: row for row in settle(list(spans.values())).rows if row.operation == "workflow_execution"}
    assert [(rows[each].source_id, rows[each].source_type) for each in ("wf_2", "wf_3")] == [
        ("wf_1", "workflow"), ("wf_2", "workflow"),
    ]  # fmt: skip


def test_an_unknown_parent_is_named_all_the_same() -> None:
    """It came from elsewhere, or is gone: its span has the id it would have."""
    child = read("wf_2", id="8", mode="integrated", parentExecution={"executionId": "7", "workflowId": "wf_1"})
    (root,) = made(child)
    assert root.parent_span_id == made(read())[0].span_id
    assert root.trace_id == made(read())[0].trace_id
    (row,) = settle([root]).rows
    assert (row.source_id, row.source_type, row.metadata["parent_execution_id"]) == ("wf_1", "workflow", "7")


def test_a_parent_of_another_workflow_is_another_instances() -> None:
    child = read("wf_2", id="8", parentExecution={"executionId": "7", "workflowId": "wf_1"})
    assert made(child, read("wf_9")) == made(child)


@pytest.mark.parametrize(
    ("told", "settings", "status", "code"),
    [
        ({"status": "canceled", "nodes": [node("A")]}, {}, "timeout", "timeout"),
        ({"status": "canceled", "nodes": [node("A")]}, {"executionTimeout": 0.1}, "timeout", "timeout"),
        ({"status": "canceled", "nodes": [node("A")]}, {"executionTimeout": 3600}, "cancelled", None),
        ({"status": "canceled", "nodes": [node("A")]}, {"executionTimeout": -1}, "cancelled", None),
        ({"status": "canceled", "nodes": []}, {}, "cancelled", None),
        ({"status": "canceled"}, {}, "cancelled", None),
        ({"status": "canceled", "error": {"reason": "manual"}, "nodes": [node("A")]}, {}, "cancelled", None),
        ({"status": "canceled", "error": {"name": "ManualExecutionCancelledError"}}, {}, "cancelled", None),
        ({"status": "canceled", "error": {"name": "SystemShutdownExecutionCancelledError"}}, {}, "cancelled", None),
        ({"status": "canceled", "error": {"name": "TimeoutExecutionCancelledError"}}, {}, "timeout", "timeout"),
        ({"status": "crashed"}, {}, "error", None),
        ({"status": "error", "error": {"name": "NodeApiError", "httpCode": "500"}}, {}, "error", "NodeApiError"),
        ({"status": "error", "error": {"message": "m", "httpCode": "ETIMEDOUT"}}, {}, "timeout", "ETIMEDOUT"),
    ],
)
def test_how_it_ended(told: dict[str, Any], settings: dict[str, Any], status: str, code: str | None) -> None:
    found = read(settings=settings, **told)
    assert (found.outcome.status, found.outcome.error_code) == (status, code)
    (row,) = [row for row in settle(made(found)).rows if row.operation == "workflow_execution"]
    assert (row.status, row.error_code) == (status, code)


@pytest.mark.parametrize("status", ["waiting", "running", "new", "unknown"])
def test_what_goes_on_is_not_told(status: str) -> None:
    assert read_execution({"id": "wf_1"}, execution(status=status)) is None
    assert event_outcome({"status": status}) is None


def test_an_execution_timeout_says_its_limit_and_the_cut_off_node_is_not_there() -> None:
    root, *nodes = spans_of_document(document("execution_timeout"))
    assert (root.attributes[elf.ELF_OUTCOME], root.status_message) == (
        "timeout", "n8n stopped the execution at its limit of 2 s",
    )  # fmt: skip
    assert [span.attributes["n8n.node.name"] for span in nodes] == ["Webhook"]


def test_a_node_that_goes_on_after_a_failure_is_a_success_that_says_so() -> None:
    told = document("success")
    call = told["workflowData"]["nodes"][2]
    call["onError"] = "continueRegularOutput"
    told["data"]["resultData"]["runData"]["Call inventory"][0]["data"]["main"][0][0]["json"] = {"error": "500 secret"}
    rows = [row for row in settle(spans_of_document(told)).rows if row.workflow_node == "Call inventory"]
    assert [(row.status, row.metadata["soft_error"]) for row in rows] == [("success", True)]
    call["onError"] = "stopWorkflow"
    rows = [row for row in settle(spans_of_document(told)).rows if row.workflow_node == "Call inventory"]
    assert "soft_error" not in rows[0].metadata


@pytest.mark.parametrize("started", ["2026-11-22T07:07:57.108Z", "2026-11-22T07:17:56.990Z"])
def test_a_resumed_execution_lasts_from_when_it_went_on(started: str) -> None:
    """A pause for an approval is no time that the workflow took; the API tells the first start, hooks the last."""
    begin, went_on = 1_795_331_277_122, 1_795_331_877_000
    nodes = [
        node("Webhook", executionIndex=0, startTime=begin), node("Wait", executionIndex=0, startTime=went_on),
        node("Notify", executionIndex=1, startTime=went_on + 1),
    ]  # fmt: skip
    found = read(startedAt=started, stoppedAt="2026-11-22T07:17:57.040Z", nodes=nodes)
    root, *steps = made(found)
    row = next(row for row in settle([root, *steps]).rows if row.operation == "workflow_execution")
    assert row.duration_ms == pytest.approx(40, abs=11)
    assert row.metadata["resumed"] is True
    assert [step.start_ns // 1_000_000 for step in steps] == [begin, went_on, went_on + 1]


def test_what_was_cancelled_in_the_queue_has_no_duration() -> None:
    told = {"id": "3", "status": "canceled", "mode": "trigger", "startedAt": None, "stoppedAt": "2026-11-22T07:00:00Z"}
    spans = spans_of_document({**told, "workflowId": "wf_1", "workflowData": {"id": "wf_1", "name": "W", "nodes": []}})
    (row,) = settle(spans).rows
    assert (row.timestamp.isoformat(), row.duration_ms, row.status) == ("2026-11-22T07:00:00+00:00", None, "cancelled")


def test_nothing_but_what_is_listed_gets_out() -> None:
    """Bodies, headers, tokens, stack traces: a canary in every text that is not n8n's own must not sing."""
    told = document("failure")
    run = told["data"]["resultData"]["runData"]
    for holder in (
        run["Webhook"][0]["data"],
        told["data"]["executionData"],
        told["data"]["resultData"]["error"]["context"],
    ):
        _plant(holder)
    for error in (told["data"]["resultData"]["error"], run["Charge card"][0]["error"]):
        error.update(stack="canary", description="canary", messages=["canary"], context={"request": {"body": "canary"}})
    told["data"]["resumeToken"] = "canary"
    told["customData"] = {"canary": "canary"}
    for each in told["workflowData"]["nodes"]:
        each["parameters"]["jsonBody"] = each["parameters"]["options"] = each["credentials"] = "canary"
    assert "canary" in json.dumps(told)
    assert "canary" not in json.dumps(excerpt(told))
    assert "canary" not in repr([asdict(span) for span in spans_of_document(told)])


def _plant(value: Any) -> None:
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, inner in pairs:
        if isinstance(inner, str) and key not in {"traceparent", "tracestate"}:
            value[key] = "canary"
        else:
            _plant(inner)


_ODD = st.sampled_from([None, "x", 7, -1, 1e400, float("nan"), [], {}, [None], ["\ud800"], {"a": [1]}, True, "\x00"])


@given(st.data())
def test_whatever_an_n8n_answers_breaks_nothing(data: st.DataObject) -> None:
    told = copy.deepcopy(document(data.draw(st.sampled_from(["success", "failure", "execution_timeout"]))))
    for _ in range(data.draw(st.integers(1, 6))):
        _spoil(told, data)
    workflow, run = excerpt(told)
    found = read_execution(workflow, run)
    if found is not None:
        settle(spans_of(found, now_ns=NOW_NS))


def _spoil(value: Any, data: st.DataObject) -> None:
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = data.draw(st.sampled_from(keys))
    if isinstance(value[key], dict | list) and data.draw(st.integers(0, 4)):
        _spoil(value[key], data)
    else:
        value[key] = copy.deepcopy(data.draw(_ODD))


@pytest.fixture
def spans() -> Iterator[Spans]:
    kept = Spans()
    yield kept
    kept.provider.shutdown()


def test_an_event_is_recorded_with_the_ids_it_always_has(spans: Spans) -> None:
    (event,) = hook_events("success")
    for _ in range(2):
        assert record_execution(event["workflow"], event["execution"], tracer_provider=spans.provider)
    sdk = SdkSpans()
    records = [record for span in spans.finished if (record := sdk.record(span))]
    wanted = {span.span_id: span for span in spans_of_event(event)}
    assert [record.span_id for record in records[:5]] == [record.span_id for record in records[5:]]
    for record in records:
        expected = wanted[record.span_id]
        assert (record.trace_id, record.parent_span_id, record.start_ns, record.end_ns, record.trace_state) == (
            expected.trace_id, expected.parent_span_id, expected.start_ns, expected.end_ns, expected.trace_state,
        )  # fmt: skip
        assert record.resource.attributes == {"service.name": "n8n"}
        assert record.status is expected.status
    other = spans.provider.get_tracer("elf-automations.n8n").start_span("other")
    assert other.get_span_context().span_id.to_bytes(8) not in wanted


def test_an_error_workflow_told_after_the_failure_is_in_its_trace(spans: Spans) -> None:
    for event in hook_events("failure_with_error_workflow"):
        record_execution(event["workflow"], event["execution"], instance="here", tracer_provider=spans.provider)
    rows = {row.workflow_name: row for row in spans.settled().rows if row.operation == "workflow_execution"}
    failed, handler = rows["H3 billing (fails)"], rows["H3 error handler"]
    assert (handler.trace_id, handler.parent_span_id) == (failed.trace_id, failed.span_id)
    assert handler.metadata["instance_id"] == "here"


def test_without_tracing_or_sampled_out_it_is_not_recorded() -> None:
    (event,) = hook_events("success")
    told = {**event["execution"], "traceparent": None}
    with fresh_pipeline():
        assert not record_execution(event["workflow"], told)
        assert not record_execution(event["workflow"], told, tracer_provider=trace.NoOpTracerProvider())
    spans = Spans()
    spans.provider.sampler = sampling.ALWAYS_OFF
    assert not record_execution(event["workflow"], told, tracer_provider=spans.provider)
    assert not spans.finished
    spans.provider.shutdown()
