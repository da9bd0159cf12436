"""compose.yaml, as far as it can be held without Docker: by Compose's own loader, and against the files it mounts.

The loader is the library `docker compose` reads its files with; that the images start together is not tested.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml
from psycopg.conninfo import make_conninfo

from collector_process import CONFIGURATIONS, ROOT, validated
from elf_automations.storage.migrate import migrate
from grafana_reader import run_reader
from own_postgres import own_postgres

COMPOSE = CONFIGURATIONS / "compose.yaml"
LOADER = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"
TO_CHOOSE = ("ELF_POSTGRES_PASSWORD", "ELF_SINK_TOKEN", "ELF_SINK_CLIENT_TOKEN", "ELF_GRAFANA_PASSWORD")
CHOSEN = {name: f"fake-{name.lower()}" for name in TO_CHOOSE}
READ = {"gateway": CONFIGURATIONS / "gateway.yaml", "jaeger": CONFIGURATIONS / "backends/jaeger.yaml"}
# Where images listen by themselves; the others are told by what stands in the file.
BY_ITSELF = {("postgres", 5432), ("prometheus", 9090), ("grafana", 3000)}


def load(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["go", "run", LOADER, "--format", "json", str(path)],
        cwd=CONFIGURATIONS,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )


@pytest.fixture(scope="module")
def services(tmp_path_factory: Any) -> dict[str, Any]:
    """The services as Compose understands them; the loader's command reads no environment, so that is filled in."""
    filled = tmp_path_factory.mktemp("compose") / "compose.yaml"
    filled.write_text(re.sub(r"\$\{(\w+):\?[^}]+\}", lambda found: CHOSEN[found[1]], COMPOSE.read_text()))
    done = load(filled)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded["secrets"]["sink_token"]["environment"] == "ELF_SINK_CLIENT_TOKEN"
    return loaded["services"]


def test_what_must_be_chosen_is_asked_for() -> None:
    done = load(COMPOSE)
    assert done.returncode != 0
    assert {name for name in CHOSEN if f"required variable {name} is missing" in done.stderr} == set(CHOSEN)


def test_images_are_pinned_and_the_collector_is_the_release_the_tests_use(services: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in services.items()}
    assert all(re.search(r":v?\d", image) for image in images.values() if image != "elf-automations:local")
    built = yaml.safe_load((CONFIGURATIONS / "builder.yaml").read_text())["dist"]["version"]
    assert images["gateway"] == f"otel/opentelemetry-collector-contrib:{built}"
    assert {name for name, image in images.items() if image == "elf-automations:local"} == {"setup", "sink", "upkeep"}


def test_every_port_is_this_machines_alone(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert {(name, int(port["target"])) for name, each in services.items() for port in each.get("ports", ())} <= (
        listening(services)
    )


def test_every_mounted_file_exists(services: dict[str, Any]) -> None:
    mounted = [
        Path(volume["source"])
        for service in services.values()
        for volume in service.get("volumes", ())
        if volume["type"] == "bind"
    ]
    assert len(mounted) > 4
    assert [path for path in mounted if not path.exists()] == []


@pytest.mark.parametrize("name", READ)
def test_what_it_tells_a_configuration_is_read_there(services: dict[str, Any], name: str) -> None:
    told = set(services[name]["environment"])
    assert told <= set(re.findall(r"\$\{env:(\w+)", READ[name].read_text()))


def test_the_gateway_starts_with_what_it_is_told(services: dict[str, Any]) -> None:
    done = validated("gateway.yaml", **services["gateway"]["environment"])
    assert done.returncode == 0, done.stderr


def test_everything_that_is_called_listens_there(services: dict[str, Any]) -> None:
    """Between the containers: what each is told to call, and what Prometheus and Grafana are."""
    scraped = yaml.safe_load((CONFIGURATIONS / "prometheus/prometheus.yaml").read_text())["scrape_configs"]
    sources = yaml.safe_load((CONFIGURATIONS / "grafana/datasources/elf.yaml").read_text())["datasources"]
    called = [
        *(value for service in services.values() for value in service.get("environment", {}).values()),
        *(target for job in scraped for each in job["static_configs"] for target in each["targets"]),
        *(source["url"] for source in sources),
    ]
    wanted = {place for text in called if (place := _place(str(text)))}
    assert {"postgres", "sink", "jaeger", "gateway", "prometheus"} == {host for host, _ in wanted}
    assert wanted <= listening(services)


def _place(text: str) -> tuple[str, int] | None:
    """Return the host and port `text` calls; None where it is none or an address to listen on."""
    parts = urlsplit(text if "://" in text else f"//{text}")
    try:
        port = parts.port
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port and parts.hostname != "0.0.0.0" else None


def listening(services: dict[str, Any]) -> set[tuple[str, int]]:
    """Return the services and ports others can reach."""
    told = {
        (name, int(port))
        for name, service in services.items()
        for text in (*service.get("environment", {}).values(), *(service.get("command") or ()))
        for port in re.findall(r"^0\.0\.0\.0:(\d+)$", str(text))
    }
    own = services["gateway"]["environment"]
    assert own["ELF_GATEWAY_OWN_HOST"] == "0.0.0.0"
    return told | BY_ITSELF | {("gateway", int(own["ELF_GATEWAY_OWN_PORT"]))}


def test_the_sinks_image_can_be_built_from_what_it_copies(services: dict[str, Any], tmp_path: Path) -> None:
    """The build context of the Dockerfile holds all the wheel is made of."""
    build = services["setup"]["build"]
    assert Path(build["context"]) == ROOT
    for line in build["dockerfile_inline"].splitlines():
        if line.startswith("COPY "):
            *sources, target = line.removeprefix("COPY ").split()
            there = tmp_path / target.strip("/")
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, there)
                else:
                    there.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, there)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist"]
    done = subprocess.run([*command, tmp_path / "source"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "dist").glob("elf_automations-*.whl"))


def test_grafanas_user_reads_and_writes_nothing() -> None:
    """The script of the database's image, by psql, then `setup`: the order they run in there."""
    with own_postgres(fsync="off") as (_, url):
        run_reader(url)
        migrate(url)
        with psycopg.connect(make_conninfo(url, user="grafana"), autocommit=True) as connection:
            assert connection.execute("select count(*) from communication_telemetry").fetchone() == (0,)
            for write in ("delete from communication_telemetry", "update unified_registry set tags = '{}'"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(write)
