"""Every Collector configuration runs with our distribution and needs nothing that stock contrib lacks."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector_process import CONFIGURATIONS, collector_binary, validated
from jaeger_process import JAEGER_CONFIGURATION, jaeger_binary

KINDS = ("receivers", "processors", "exporters", "connectors", "extensions")


def configurations() -> list[str]:
    """Return the files that configure a Collector: those with pipelines, Jaeger's own apart."""
    found = [path for path in sorted(CONFIGURATIONS.rglob("*.yaml")) if path != JAEGER_CONFIGURATION]
    return [str(path.relative_to(CONFIGURATIONS)) for path in found if "pipelines" in (read(path).get("service") or {})]


def read(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    return document if isinstance(document, dict) and isinstance(document.get("service"), dict) else {}


@cache
def components() -> dict[tuple[str, str], tuple[str, str]]:
    """Return the module and version of each component of our distribution by kind and name."""
    done = subprocess.run([str(collector_binary()), "components"], capture_output=True, text=True, check=True)
    listed = yaml.safe_load(done.stdout)
    return {(kind, each["name"]): tuple(each["module"].split()) for kind in KINDS for each in listed.get(kind) or ()}


@cache
def distributions(module: str, version: str) -> set[str]:
    """Return the distributions of OpenTelemetry a component says it is in, by the metadata its release comes with."""
    done = subprocess.run(
        ["go", "mod", "download", "-json", f"{module}@{version}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    metadata = Path(json.loads(done.stdout)["Dir"]) / "metadata.yaml"
    return set(yaml.safe_load(metadata.read_text())["status"]["distributions"])


def test_there_are_configurations():
    assert {"agent.yaml", "gateway.yaml"} <= set(configurations())


@pytest.mark.parametrize("name", configurations())
def test_our_distribution_accepts_it(name: str, tmp_path: Path) -> None:
    done = validated(name)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.parametrize("name", configurations())
def test_stock_contrib_has_all_it_uses(name: str) -> None:
    configuration = read(CONFIGURATIONS / name)
    used = {(kind, component.partition("/")[0]) for kind in KINDS for component in configuration.get(kind) or ()}
    assert used
    missing = {each for each in used if "contrib" not in distributions(*components()[each])}
    assert not missing


@pytest.mark.parametrize("name", configurations())
def test_nothing_is_acknowledged_that_is_only_in_memory(name: str) -> None:
    """No batch processor; what feeds rows retries for ever; memory is limited before anything else."""
    configuration = read(CONFIGURATIONS / name)
    assert not {each.partition("/")[0] for each in configuration["processors"]} & {"batch"}
    pipelines = configuration["service"]["pipelines"].values()
    assert {pipeline["processors"][0] for pipeline in pipelines if "processors" in pipeline} == {"memory_limiter"}
    for exporter, said in configuration["exporters"].items():
        if exporter.endswith(("/sink", "/next")):
            assert said["retry_on_failure"]["max_elapsed_time"] == "0s"


@pytest.mark.parametrize("name", configurations())
def test_whoever_calls_a_sink_sends_the_token_of_clients(name: str) -> None:
    """ELF_SINK_TOKEN may hold several, which no client can send; alone it is what all send."""
    for exporter, said in read(CONFIGURATIONS / name)["exporters"].items():
        if exporter.startswith("otlp_http/"):
            assert said["headers"] == {
                "authorization": "Bearer ${env:ELF_SINK_CLIENT_TOKEN:-${env:ELF_SINK_TOKEN:-none}}"
            }


def test_jaeger_accepts_its_configuration() -> None:
    command = [str(jaeger_binary()), "validate", "--config", str(JAEGER_CONFIGURATION)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
