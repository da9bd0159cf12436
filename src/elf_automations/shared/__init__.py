"""The import paths of the guide: `telemetry` and `a2a`."""
