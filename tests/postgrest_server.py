"""A small PostgREST on loopback over a real Postgres, for tests of what goes through Supabase's HTTP API.

The real server is a Haskell binary that no package registry of ours carries. This one does what PostgREST documents
for the requests we make: `POST /rest/v1/rpc/<function>` as a named-argument call built from the JSON body, and
`GET /rest/v1/<table>` with `select`, the common filters, `order` and `limit`. Each request is one transaction that
takes on the role of its key, its settings (`ALTER ROLE … SET statement_timeout`) and its claims, and only reads for
GET and for STABLE functions. SQLSTATEs become HTTP statuses by PostgREST's table (documentation, Errors). A body is
JSON as it comes: PostgREST inflates nothing. Answers are compressed for who accepts it, as Supabase's gateway does;
the gateway also turns away unknown keys, sb_ keys sent as Bearer tokens, and secret keys sent by browsers.

    with serving(database_url) as api:
        httpx.post(f"{api.url}/rest/v1/rpc/register_entity", headers={"apikey": api.key}, json={...})

`supabase_roles` makes a database with a project's roles, and the keys for them.

`api.answer_next(503)` makes the next request fail as a gateway would; `api.requests` holds what was asked.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import psycopg
import uvicorn
from psycopg import sql
from psycopg.rows import dict_row
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

KEY = "sb_secret_test_0123456789"

_STATUS = {
    "22": 400, "23503": 409, "23505": 409, "25006": 405, "25": 500, "28": 403, "2D": 500, "38": 500, "39": 500,
    "3B": 500, "40": 500, "53": 503, "53400": 500, "54": 500, "55": 500, "57": 500, "58": 500, "F0": 500, "HV": 500,
    "P0001": 400, "P0": 500, "XX": 500, "42883": 404, "42P01": 404, "42P17": 500, "08": 503,
}  # fmt: skip
_OPERATORS = {
    "eq": "=",
    "neq": "<>",
    "gt": ">",
    "gte": ">=",
    "lt": "<",
    "lte": "<=",
    "like": "LIKE",
    "ilike": "ILIKE",
    "cs": "@>",
}
_NOT_FILTERS = {"select", "order", "limit", "offset", "columns", "on_conflict"}
_FUNCTION = """
    SELECT p.proname, p.proretset, p.prorettype = 'void'::regtype AS void, t.typtype IN ('c', 'p') AS composite,
           p.provolatile, p.proargnames[1:p.pronargs] AS names, p.pronargdefaults AS defaults,
           ARRAY(SELECT format_type(a, NULL) FROM unnest(p.proargtypes) a) AS types
    FROM pg_proc p JOIN pg_type t ON t.oid = p.prorettype
    WHERE p.pronamespace = 'public'::regnamespace AND p.proname = %s
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the server saw it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Api:
    """A running emulation: its `url`, one `key` it takes, and the strings tests pull."""

    database_url: str
    keys: Mapping[str, str | None]
    url: str = ""
    requests: list[Asked] = field(default_factory=list[Asked])
    _answers: deque[tuple[int, Any, Mapping[str, str]]] = field(default_factory=deque[Any])

    @property
    def key(self) -> str:
        """A key the server takes."""
        return next(iter(self.keys))

    def answer_next(self, status: int, body: object = None, headers: Mapping[str, str] | None = None) -> None:
        """Answer the next request with this instead of asking the database; `body` None is an empty answer."""
        self._answers.append((status, body, headers or {}))

    async def _serve(self, request: Request) -> Response:
        body = await request.body()
        self.requests.append(Asked(request.method, request.url.path, dict(request.headers), body))
        if self._answers:
            status, answer, headers = self._answers.popleft()
            return _json(status, answer, headers)
        turned_away = self._gateway(request.headers)
        if turned_away:
            return turned_away
        role = self.keys[request.headers["apikey"]]
        try:
            arguments = orjson.loads(body or b"{}")
        except orjson.JSONDecodeError:
            return _json(400, {"code": "PGRST102", "message": "Empty or invalid json", "details": None, "hint": None})
        try:
            with psycopg.connect(self.database_url, row_factory=dict_row, prepare_threshold=None) as connection:
                _become(connection, role, request)
                name = request.path_params["name"]
                if "/rpc/" in request.url.path:
                    return _call(connection, name, arguments)
                return _select(connection, name, list(request.query_params.multi_items()))
        except psycopg.Error as error:
            return _refusal(error, anonymous=role == "anon")

    def _gateway(self, headers: Mapping[str, str]) -> Response | None:
        key, token = headers.get("apikey", ""), headers.get("authorization", "").removeprefix("Bearer ")
        if key not in self.keys:
            return _json(401, {"message": "Invalid API key", "hint": "Double check your API key."})
        if token and (token not in self.keys or token.startswith("sb_")):
            message = "Expected 3 parts in JWT; got 1" if token.startswith("sb_") else "JWSError JWSInvalidSignature"
            return _json(401, {"code": "PGRST301", "message": message, "details": None, "hint": None})
        if key.startswith("sb_secret_") and "Mozilla/" in headers.get("user-agent", ""):
            return _json(401, {"message": "Forbidden use of secret API key in browser"})
        return None


@contextmanager
def serving(database_url: str, *, keys: Mapping[str, str | None] | None = None) -> Iterator[Api]:
    """Run the emulation over `database_url` for the body; `keys` maps API keys to database roles (None: no change)."""
    api = Api(database_url, keys or {KEY: None})
    routes = [
        Route("/rest/v1/rpc/{name}", api._serve, methods=["POST"]),
        Route("/rest/v1/{name}", api._serve, methods=["GET"]),
    ]
    app = GZipMiddleware(Starlette(routes=routes), minimum_size=100)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="postgrest-emulation")
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            assert thread.is_alive(), "the emulation did not start"
            assert time.monotonic() < deadline, "the emulation did not start in time"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        api.url = f"http://127.0.0.1:{port}"
        yield api
    finally:
        server.should_exit = True
        thread.join(10)


def _become(connection: psycopg.Connection[Any], role: str | None, request: Request) -> None:
    """Begin the transaction of one request: what it may, what the functions can ask of it, and nothing after it."""
    settings = {
        "request.jwt.claims": orjson.dumps({"role": role}).decode(),
        "request.method": request.method,
        "request.path": request.url.path.removeprefix("/rest/v1"),
        "request.headers": orjson.dumps(dict(request.headers)).decode(),
        "request.cookies": "{}",
        "search_path": '"public", "extensions"',
    }
    if role:
        found = connection.execute("SELECT rolconfig FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
        settings |= dict(setting.split("=", 1) for setting in ((found or {}).get("rolconfig") or []))
        settings["role"] = role
    for name, value in settings.items():
        connection.execute("SELECT set_config(%s, %s, true)", (name, value))
    if request.method == "GET":
        connection.execute("SET TRANSACTION READ ONLY")


def _json(status: int, body: object, headers: Mapping[str, str] | None = None) -> Response:
    content = b"" if body is None else orjson.dumps(body, default=str)
    return Response(content, status, dict(headers or {}), media_type="application/json")


def _call(connection: psycopg.Connection[Any], name: str, arguments: dict[str, Any]) -> Response:
    fitting = [
        function
        for function in connection.execute(_FUNCTION, (name,)).fetchall()
        if _fits(function["names"] or [], function["defaults"], arguments)
    ]
    if not fitting:
        given = ", ".join(arguments) or "without parameters"
        message = f"Could not find the function public.{name}({given}) in the schema cache"
        return _json(404, {"code": "PGRST202", "message": message, "details": None, "hint": None})
    if len(fitting) > 1:
        message = "Could not choose the best candidate function"
        return _json(300, {"code": "PGRST203", "message": message, "details": None, "hint": None})
    function = fitting[0]
    if function["provolatile"] != "v":
        connection.execute("SET TRANSACTION READ ONLY")
    types = dict(zip(function["names"] or [], function["types"], strict=True))
    target = sql.SQL("{}({})").format(
        sql.Identifier("public", name),
        sql.SQL(", ").join(sql.SQL("{0} := a.{0}").format(sql.Identifier(given)) for given in arguments),
    )
    columns = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(types[n])) for n in arguments)
    source = sql.SQL("json_to_record(%s::json) AS a({})").format(columns) if arguments else sql.SQL("(SELECT %s) AS a")
    answer = sql.SQL("coalesce(json_agg(r), '[]')") if function["proretset"] else sql.SQL("to_json((array_agg(r))[1])")
    if function["void"]:
        answer = sql.SQL("count(r)")
    row = connection.execute(
        sql.SQL("SELECT {answer} AS answer FROM {source}, LATERAL {target} AS r").format(
            answer=answer, source=source, target=target
        ),
        (orjson.dumps(arguments).decode(),),
    ).fetchone()
    return _json(204, None) if function["void"] else _json(200, row["answer"] if row else None)


def _fits(names: list[str], defaults: int, arguments: Mapping[str, Any]) -> bool:
    required = names[: len(names) - defaults]
    return set(arguments) <= set(names) and set(required) <= set(arguments)


def _select(connection: psycopg.Connection[Any], table: str, query: list[tuple[str, str]]) -> Response:
    asked = dict(query)
    columns = [sql.Identifier(name.strip()) for name in asked.get("select", "*").split(",") if name.strip() != "*"]
    statement = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(columns) if columns else sql.SQL("*"), sql.Identifier("public", table)
    )
    conditions = [_condition(name, value) for name, value in query if name not in _NOT_FILTERS]
    if conditions:
        statement += sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions)
    if "order" in asked:
        keys = [part.split(".") for part in asked["order"].split(",")]
        statement += sql.SQL(" ORDER BY ") + sql.SQL(", ").join(
            sql.Identifier(key[0]) + sql.SQL(" DESC" if "desc" in key[1:] else " ASC") for key in keys
        )
    for word in ("limit", "offset"):
        if word in asked:
            statement += sql.SQL(f" {word.upper()} ") + sql.Literal(int(asked[word]))  # pyright: ignore[reportArgumentType]
    wrapped = sql.SQL("SELECT coalesce(json_agg(r), '[]') AS answer FROM ({}) r").format(statement)
    row = connection.execute(wrapped).fetchone()
    return _json(200, row["answer"] if row else [])


def _condition(column: str, value: str) -> sql.Composable:
    operator, _, operand = value.partition(".")
    name = sql.Identifier(column)
    if operator == "is":
        return name + sql.SQL(" IS ") + sql.SQL({"null": "NULL", "true": "TRUE", "false": "FALSE"}[operand])
    if operator == "in":
        items = [item.strip('"') for item in re.findall(r'"[^"]*"|[^,]+', operand.strip("()"))]
        return name + sql.SQL("::text = ANY({})").format(sql.Literal(items))
    text = operand.replace("*", "%") if operator in {"like", "ilike"} else operand
    return name + sql.SQL(f" {_OPERATORS[operator]} ") + sql.Literal(text)  # pyright: ignore[reportArgumentType]


def _refusal(error: psycopg.Error, *, anonymous: bool) -> Response:
    state = error.sqlstate or "08000"
    status = _STATUS.get(state) or _STATUS.get(state[:2], 400)
    if state == "42501":
        status = 401 if anonymous else 403
    diagnosis = error.diag
    message = diagnosis.message_primary or str(error)
    details, hint = diagnosis.message_detail, diagnosis.message_hint
    return _json(status, {"code": state, "message": message, "details": details, "hint": hint})
