"""A wrong setting is one line that names it and the mend."""

from __future__ import annotations

import pytest

from elf_automations.errors import ConfigurationError
from elf_automations.settings import load_settings, misspelt_variables


def test_settings_come_from_the_environment_and_keywords_win(monkeypatch):
    monkeypatch.setenv("ELF_ENTITY_ID", "from-environment")
    monkeypatch.setenv("ELF_ENTITY_CAPABILITIES", "search, write ,")
    monkeypatch.setenv("ELF_QUEUE_SIZE", "12")
    settings = load_settings(entity_id="from-code")
    assert (settings.entity_id, settings.entity_capabilities, settings.queue_size) == (
        "from-code",
        ("search", "write"),
        12,
    )


@pytest.mark.parametrize(
    ("environment", "keywords", "line"),
    [
        ({"ELF_QUEUE_SIZE": "many"}, {}, "ELF_QUEUE_SIZE='many' does not fit: input should be a valid integer"),
        ({"ELF_QUEUE_SIZE": "0"}, {}, "ELF_QUEUE_SIZE='0' does not fit: input should be greater than or equal to 1"),
        ({}, {"databse_url": "x"}, "configure() has no setting 'databse_url': did you mean 'database_url'?"),
        ({}, {"entity_type": "robot"}, "entity_type='robot' does not fit: input should be 'team'"),
    ],
)
def test_a_bad_setting_is_named_with_its_mend(monkeypatch, environment, keywords, line):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**keywords)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_the_sdks_own_switch_turns_everything_off(monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert load_settings().telemetry_enabled is False


def test_a_misspelt_variable_is_pointed_at_and_a_foreign_one_is_not():
    lines = misspelt_variables({"ELF_DATABSE_URL": "x", "ELF_DATABASE_URL": "y", "ELF_ON_THE_SHELF": "z"})
    assert lines == ["ELF_DATABSE_URL is no setting and is ignored: did you mean ELF_DATABASE_URL?"]
