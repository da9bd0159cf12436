"""What a type of n8n node does: its short name, what a step of it is, the capability it gives a workflow.

A node type is `package.name`, such as `n8n-nodes-base.httpRequest`; hand-written registrations also use bare names
(`http`, `email`). Source of the names: the node packages of n8n 2.41.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

NodeScope: TypeAlias = Literal["external", "all"]
"""Which nodes of an execution become rows: those that reach outside n8n, or all."""
NodeKind: TypeAlias = Literal["outside", "inside", "trigger", "sub_workflow"]
"""What a step of a node is: a call of somebody, work inside n8n, what started the execution, or another execution."""

_AI_PACKAGES: Final = ("n8n-nodes-langchain.", "@n8n/n8n-nodes-langchain.")

_CAPABILITY_OF: Final[Mapping[str, str]] = {
    "webhook": "webhook_trigger",
    "formtrigger": "webhook_trigger",
    "respondtowebhook": "webhook_response",
    "schedule": "scheduled_trigger",
    "scheduletrigger": "scheduled_trigger",
    "cron": "scheduled_trigger",
    "interval": "scheduled_trigger",
    "manualtrigger": "manual_trigger",
    "errortrigger": "error_handling",
    "http": "http_request",
    "httprequest": "http_request",
    "graphql": "http_request",
    "code": "custom_code",
    "function": "custom_code",
    "functionitem": "custom_code",
    "executecommand": "custom_code",
    "executeworkflow": "sub_workflow",
    "executeworkflowtrigger": "sub_workflow",
    "toolworkflow": "sub_workflow",
    "email": "email_send",
    "emailsend": "email_send",
    "gmail": "email_send",
    "sendgrid": "email_send",
    "mailgun": "email_send",
    "microsoftoutlook": "email_send",
    "emailreadimap": "email_read",
    "gmailtrigger": "email_read",
    "openai": "ai_integration",
    "anthropic": "ai_integration",
    "googlegemini": "ai_integration",
    "slack": "slack_integration",
    "discord": "discord_integration",
    "telegram": "telegram_integration",
    "supabase": "database_access",
}
_DATABASES: Final = frozenset(
    {
        "database", "postgres", "postgresql", "mysql", "mariadb", "mongodb", "redis", "sqlite", "microsoftsql", "mssql",
        "oracledatabase", "questdb", "cratedb", "timescaledb", "snowflake", "googlebigquery", "clickhouse",
        "elasticsearch", "awsdynamodb",
    }
)  # fmt: skip

# What works on items inside n8n or only starts a workflow. Anything not named here talks to somebody else.
_INSIDE: Final = frozenset(
    {
        "aggregate", "aitransform", "code", "comparedatasets", "compression", "converttofile", "cron", "crypto",
        "datatable", "datetime", "debughelper", "editimage", "evaluation", "executeworkflow", "executiondata",
        "extractfromfile", "filter", "form", "function", "functionitem", "html", "htmlextract", "ical", "if",
        "interval",
        "itemlists", "jwt", "limit", "markdown", "merge", "movebinarydata", "noop", "readbinaryfile", "readbinaryfiles",
        "readpdf", "readwritefile", "removeduplicates", "renamekeys", "respondtowebhook", "set", "simulate", "sort",
        "splitinbatches", "splitout", "spreadsheetfile", "start", "stickynote", "stopanderror", "summarize", "switch",
        "totp", "wait", "webhook", "writebinaryfile", "xml",
        # of the AI package; its sub-nodes give no span in n8n 2.41
        "chat", "documentbinaryinputloader", "documentdefaultdataloader", "documentjsoninputloader",
        "memorybufferwindow", "memorymanager", "modelselector", "toolcalculator", "toolcode", "toolexecutor",
        "toolthink", "toolvectorstore", "toolworkflow", "vectorstoreinmemory",
    }
)  # fmt: skip
_INSIDE_PREFIXES: Final = ("outputparser", "textsplitter")
_TRIGGERS: Final = frozenset({"webhook", "cron", "interval", "start"})
_SUB_WORKFLOWS: Final = frozenset({"executeworkflow", "toolworkflow"})
_NOT_A_WORD = re.compile(r"[^A-Za-z0-9_]+")


def short_type(node_type: str) -> str:
    """Return a node type without its package: `n8n-nodes-base.httpRequest` is `httpRequest`."""
    return node_type.rpartition(".")[2] or node_type


def node_kind(node_type: str) -> NodeKind:
    """Return what a step of a node of this type is.

    A type nobody has heard of (a community node) is taken to reach outside: such nodes integrate a service.
    """
    name = short_type(node_type).lower()
    if name in _SUB_WORKFLOWS:
        return "sub_workflow"
    if name in _TRIGGERS or name.endswith("trigger"):
        return "trigger"
    return "inside" if name in _INSIDE or name.startswith(_INSIDE_PREFIXES) else "outside"


def reaches_outside(node_type: str) -> bool:
    """Return whether a node of this type calls somebody outside n8n.

    Triggers receive and Execute Workflow starts an execution that speaks for itself, so neither does.
    """
    return node_kind(node_type) == "outside"


def capability(node_type: str) -> str:
    """Return the capability a node of this type gives its workflow; its short type when there is no word for it."""
    short = short_type(node_type)
    name = short.lower()
    known = _CAPABILITY_OF.get(name)
    if known:
        return known
    if name.startswith("mcp"):
        return "mcp_integration"
    if name.removesuffix("trigger").removesuffix("tool") in _DATABASES:
        return "database_access"
    if node_type.startswith(_AI_PACKAGES) or name.startswith(("langchain", "lmchat", "openai")):
        return "ai_integration"
    return _NOT_A_WORD.sub("_", short).strip("_")


def capabilities(node_types: Iterable[str]) -> list[str]:
    """Return the distinct capabilities of a workflow's node types, sorted."""
    return sorted({found for node_type in node_types if (found := capability(node_type))})
