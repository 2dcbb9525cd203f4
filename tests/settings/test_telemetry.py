"""OpenTelemetry's own variables mean what its specification says, as far as there is something that they can mean."""

from pathlib import Path

import pytest

from one_api.config import ConfigError, Loaded, load

ENDPOINT = "http://collector:4318"


def loaded(**variables: str) -> Loaded:
    """What these variables come to, and nothing else."""
    return load({"API_KEYS": "k", "ONE_API_ENV_FILE": "/dev/null", **variables})


def warned(found: Loaded) -> list[str]:
    """The variables of OpenTelemetry that something is said of."""
    return [each.where for each in found.warnings if each.where.startswith("OTEL")]


URLS = [
    ({}, None),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, f"{ENDPOINT}/v1/traces"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": f"{ENDPOINT}/below/"}, f"{ENDPOINT}/below/v1/traces"),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t.example/x"}, "https://t.example/x"),
    (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t.example/x"},
        "https://t.example/x",
    ),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, None),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_SDK_DISABLED": "false"}, f"{ENDPOINT}/v1/traces"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, None),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_TRACES_EXPORTER": "otlp"}, f"{ENDPOINT}/v1/traces"),
]


@pytest.mark.parametrize(("variables", "url"), URLS)
def test_where_traces_are_sent(variables: dict[str, str], url: str | None) -> None:
    found = loaded(**variables)

    assert found.config.telemetry.url == url
    assert warned(found) == []


SAMPLERS = [
    ("always_on", None, 1.0),
    ("parentbased_always_on", "0.5", 1.0),
    ("always_off", None, 0.0),
    ("traceidratio", "0.25", 0.25),
    ("parentbased_traceidratio", ".5", 0.5),
    ("traceidratio", None, 1.0),
    ("traceidratio", "0", 0.0),
]


@pytest.mark.parametrize(("sampler", "argument", "ratio"), SAMPLERS)
def test_which_part_of_them(sampler: str, argument: str | None, ratio: float) -> None:
    given = {} if argument is None else {"OTEL_TRACES_SAMPLER_ARG": argument}

    found = loaded(OTEL_TRACES_SAMPLER=sampler, **given)

    assert found.config.telemetry.ratio == ratio
    assert warned(found) == []


IGNORED = [
    {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
    {"OTEL_TRACES_SAMPLER_ARG": "2", "OTEL_TRACES_SAMPLER": "traceidratio"},
    {"OTEL_TRACES_SAMPLER_ARG": "nan", "OTEL_TRACES_SAMPLER": "traceidratio"},
    {"OTEL_TRACES_EXPORTER": "zipkin"},
    {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
]


@pytest.mark.parametrize("variables", IGNORED)
def test_what_is_not_known_is_ignored_and_told(variables: dict[str, str]) -> None:
    found = loaded(OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT, **variables)

    assert warned(found) == [next(iter(variables))]
    assert (found.config.telemetry.url, found.config.telemetry.ratio) == (f"{ENDPOINT}/v1/traces", 0.05)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
@pytest.mark.parametrize("end", ["?api_key=s3cr3t", "/v1/traces?api_key=s3cr3t", "/#s3cr3t"])
def test_a_secret_has_its_place_in_the_headers_and_not_in_the_address(name: str, end: str) -> None:
    """The exporter names the address in the log, and nothing can be added behind a query."""
    with pytest.raises(ConfigError) as refused:
        loaded(**{name: f"{ENDPOINT}{end}"})

    assert name in str(refused.value)
    assert "OTEL_EXPORTER_OTLP_HEADERS" in str(refused.value)
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize("limit", ["x", "-1", "1.5"])
def test_a_limit_that_would_end_the_start_is_a_problem(limit: str) -> None:
    with pytest.raises(ConfigError, match="OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT: is no whole number"):
        loaded(OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT, OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=limit)

    assert warned(loaded(OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT, OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="8")) == []
    assert warned(loaded(OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=limit)) == []


def test_without_traces_another_protocol_is_nobodys_mistake() -> None:
    assert warned(loaded(OTEL_EXPORTER_OTLP_PROTOCOL="grpc")) == []


OTHERS = [
    "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_SERVICE_NAME",
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
]  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_its_other_variables_are_no_slips(name: str) -> None:
    assert warned(loaded(**{name: "x"})) == []


def test_a_slip_is_told() -> None:
    assert warned(loaded(OTEL_EXPORTER_OTLP_ENDPONT=ENDPOINT)) == ["OTEL_EXPORTER_OTLP_ENDPONT"]


def test_what_the_library_reads_itself_does_not_count_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"OTEL_EXPORTER_OTLP_ENDPOINT={ENDPOINT}\nOTEL_EXPORTER_OTLP_HEADERS=authorization=x\n")

    found = loaded(ONE_API_ENV_FILE=str(file))

    assert found.config.telemetry.endpoint == ENDPOINT
    assert warned(found) == ["OTEL_EXPORTER_OTLP_HEADERS"]
    given = loaded(ONE_API_ENV_FILE=str(file), OTEL_EXPORTER_OTLP_HEADERS="authorization=x")
    assert warned(given) == []
