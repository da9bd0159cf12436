"""The errors a person can meet, each one clear line that names the cause and the mend.

Telemetry paths never raise to the application; these reach the command line and explicit calls such as
`configure()` and `UnifiedRegistry`.
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "ElfTelemetryError",
    "MigrationError",
    "SchemaMissingError",
    "StorageRefusedError",
    "StorageUnavailableError",
]


class ElfTelemetryError(Exception):
    """Root of every error this package raises."""

    exit_code = 2


class ConfigurationError(ElfTelemetryError):
    """A setting is missing, unknown or malformed."""


class MigrationError(ElfTelemetryError):
    """The schema cannot be brought up to date."""


class StorageUnavailableError(ElfTelemetryError):
    """The database cannot take data now; the same call may succeed later."""


class SchemaMissingError(StorageUnavailableError):
    """The database is there, its tables are not: `elf-telemetry setup` makes them."""


class StorageRefusedError(ElfTelemetryError):
    """The database refuses this data or these credentials; trying again does not help."""
