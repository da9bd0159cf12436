"""Settings of one process: `ELF_*` environment variables, or the same names as keywords of `configure()`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from elf_automations.errors import ConfigurationError

__all__ = ["Settings", "load_settings"]

EntityType = Literal["team", "mcp_server", "mcp_client", "n8n_workflow", "service"]


class Settings(BaseSettings):
    """What a process may set; every field is the variable `ELF_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="ELF_", env_ignore_empty=True, frozen=True)

    database_url: str | None = Field(None, description="where rows are written; see `elf-telemetry setup --help`")
    telemetry_enabled: bool = Field(True, description="false switches everything off")  # noqa: FBT003
    queue_size: int = Field(65_536, ge=1, description="spans that wait for the database before new ones are dropped")
    entity_id: str | None = Field(None, description="who this process is in the registry")
    entity_type: EntityType = Field("service", description="what kind of entity this process is")
    entity_name: str | None = None
    entity_capabilities: Annotated[tuple[str, ...], NoDecode] = ()
    entity_parent: str | None = None
    entity_endpoint: str | None = None
    a2a_endpoints: str | None = Field(None, description="team=url pairs, comma separated")
    sink_token: str | None = Field(None, repr=False, description="the bearer token clients of the sink must send")
    sink_max_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="largest request the sink takes, inflated")
    n8n_executions: Literal["otlp", "events", "api"] = Field("otlp", description="the one source of n8n execution rows")
    n8n_webhook_token: str | None = Field(None, repr=False, description="the bearer token n8n's events must bring")
    n8n_nodes: Literal["external", "all"] = Field("external", description="which nodes of an n8n execution count")

    @property
    def n8n_exports(self) -> bool:
        """Whether the executions that n8n exports itself are rows."""
        return self.n8n_executions == "otlp"

    @field_validator("entity_capabilities", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def load_settings(**overrides: object) -> Settings:
    """Return the settings of this process; `overrides` win over the environment.

    `OTEL_SDK_DISABLED=true` switches telemetry off as well. Raises ConfigurationError, one line that names the
    setting and what it takes, for an unknown keyword or a value that does not fit.
    """
    unknown = [name for name in overrides if name not in Settings.model_fields]
    if unknown:
        raise ConfigurationError(_unknown(unknown[0]))
    given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        given["telemetry_enabled"] = False
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationError(_invalid(error, given)) from None


def misspelt_variables(environ: Mapping[str, str]) -> list[str]:
    """Return one line for each `ELF_*` variable that looks like a misspelt setting."""
    known = {f"ELF_{name.upper()}" for name in Settings.model_fields}
    lines: list[str] = []
    for name in sorted(environ):
        if name.startswith("ELF_") and name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if close:
                lines.append(f"{name} is no setting and is ignored: did you mean {close[0]}?")
    return lines


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, Settings.model_fields, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"settings are {', '.join(sorted(Settings.model_fields))}"
    return f"configure() has no setting {name!r}: {hint}"


def _invalid(error: ValidationError, given: Mapping[str, object]) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    shown = name if name in given else f"ELF_{name.upper()}"
    return f"{shown}={first.get('input')!r} does not fit: {first['msg'][0].lower()}{first['msg'][1:]}"
