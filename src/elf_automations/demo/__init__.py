"""A small fleet that really works: MCP servers, A2A teams and n8n workflows, each call kept in a ledger.

Nothing is imported here: the notes server of the demo is a process of its own and starts faster without the rest.
"""
