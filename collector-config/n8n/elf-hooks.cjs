// External hooks of n8n: tells the registry which workflows there are, in what state, and how each execution ended.
//
//   EXTERNAL_HOOK_FILES=/path/to/elf-hooks.cjs              `elf-telemetry n8n hooks-file` prints the path
//   ELF_N8N_WEBHOOK_URL=http://127.0.0.1:4319/n8n/webhook   `elf-telemetry n8n webhook` listens there
//   ELF_N8N_WEBHOOK_TOKEN=…                                 the token it asks for, if any
//   ELF_N8N_INSTANCE=…                                      what tells this n8n from others that run copies of its workflows
//
// n8n awaits its hooks and hands their errors on to whoever called. So a hook here returns at once and never throws:
// it copies the fields named below, puts the event in a bounded queue and lets go. One event is under way at a time, so
// they arrive in order; one that cannot be delivered is dropped and counted, and the workflow it was about is told
// again, as it is then, when the receiver is back. Item data, headers, parameters, people and tokens are never read
// into an event, with two exceptions: `traceparent` and `tracestate` of the request, and the host of a node's URL.
// In queue mode the workers need the file and the variables as well: who ran an execution tells how it ended.

'use strict';

const http = require('node:http');
const https = require('node:https');

const MAX_WAITING = 1000; // events
const MAX_WAITING_BYTES = 16 * 1024 * 1024;
const MAX_RUNS = 2000; // node runs told of one execution
const MAX_NODES = 1000; // nodes told of one workflow
const MAX_MISSED = 10000; // workflows to tell again, and whose project is remembered
const MAX_HELD = 500; // executions of sub-workflows that wait for the one that started them
const HOLD_MS = 10000;
const CONFIRM_MS = 5000;
const RELATIONS = { tags: true, activeVersion: true, shared: true };
const ABORT_MS = 2000;
const LONGEST_PAUSE_MS = 30000;
const WARN_EVERY_MS = 60000;

// ---- what an event may hold -----------------------------------------------------------------------------------------

const object = (value) => (value !== null && typeof value === 'object' && !Array.isArray(value) ? value : {});
const list = (value) => (Array.isArray(value) ? value : []);
const text = (value, most = 1000) => (typeof value === 'string' ? value.slice(0, most) : undefined);
const number = (value) => (Number.isFinite(value) ? value : undefined);
const flag = (value) => (typeof value === 'boolean' ? value : undefined);
const moment = (value) => {
  const at = value === null || value === undefined ? new Date(NaN) : new Date(value);
  return Number.isNaN(at.getTime()) ? undefined : at.toISOString();
};

// Where people put the address a node calls, by the names n8n's own nodes give the parameter.
const ADDRESSES = ['url', 'endpointUrl', 'endpoint', 'sseEndpoint', 'serverUrl', 'baseUrl', 'uri', 'webhookUri'];
// An expression may follow the host, never be in it: "=https://api.example.com/{{ $json.id }}".
const HOST = /^=?https?:\/\/(?:[^/?#\s{}]*@)?([^/?#\s{}@]+)(?=$|[/?#])/i;

// The credential a generic HTTP node borrows names the service: slackOAuth2Api is slack.
const CREDENTIAL = /^(?!http|oAuth)([A-Za-z0-9]+?)(?:OAuth2)?(?:Api)?$/;

// Whom a node calls: the host of its URL, or the service whose credential it borrows.
function service(parameters) {
  for (const name of ADDRESSES) {
    const found = HOST.exec(text(parameters[name]) ?? '');
    if (found) return found[1].toLowerCase().slice(0, 255);
  }
  return CREDENTIAL.exec(text(parameters.nodeCredentialType, 100) ?? '')?.[1];
}

function node(said) {
  const { id, name, type, typeVersion, parameters, disabled } = object(said);
  return {
    id: text(id, 100),
    name: text(name, 255),
    type: text(type, 255),
    typeVersion: number(typeVersion),
    disabled: flag(disabled),
    service: service(object(parameters)),
  };
}

// Seconds; -1: none. The workflow's own, else the instance's, which n8n tells nobody else.
function timeLimit(settings) {
  const own = number(settings.executionTimeout) ?? (Number(process.env.EXECUTIONS_TIMEOUT ?? -1) || -1);
  return own > 0 ? Math.min(own, Number(process.env.EXECUTIONS_TIMEOUT_MAX ?? 3600) || 3600) : -1;
}

// n8n tells it of most executions, not of retried and resumed ones.
const projects = new Map();
function project(id, told) {
  if (told !== undefined && (projects.has(id) || projects.size < MAX_MISSED)) projects.set(id, told);
  return told ?? projects.get(id);
}

function workflow(said) {
  const { id, name, description, active, isArchived, versionId, tags, nodes, shared } = object(said);
  const { activeVersion, settings } = object(said);
  const running = list(object(activeVersion).nodes); // what runs; `nodes` beside it is the draft
  const described = running.length > 0 ? running : nodes;
  return {
    id: text(String(id ?? ''), 255),
    name: text(name, 255),
    description: description === null ? '' : text(description, 2000), // none, in place of one it had
    active: flag(active),
    isArchived: flag(isArchived),
    projectId: project(id, text(list(shared).find((each) => object(each).role === 'workflow:owner')?.projectId, 100)),
    versionId: text(versionId, 100),
    settings: { executionTimeout: timeLimit(object(settings)) },
    tags: Array.isArray(tags) ? tags.map((tag) => text(object(tag).name, 255)).filter(Boolean) : undefined,
    nodes: Array.isArray(described) ? described.slice(0, MAX_NODES).map(node) : undefined,
  };
}

const TIMED_OUT = /\btimeout of \d+ ?ms exceeded|\btimed out\b/i;

function failure(said) {
  if (typeof said === 'string') return { message: text(said, 2000) };
  const { name, message, messages, httpCode, reason } = object(said);
  if (said === null || typeof said !== 'object') return undefined;
  return {
    name: text(name, 255),
    message: text(message, 2000),
    // Others quote what the service answered.
    messages: list(messages).map((each) => text(each, 500)).filter((each) => TIMED_OUT.test(each ?? '')),
    httpCode: text(String(httpCode ?? ''), 50) || undefined,
    reason: text(reason, 100),
  };
}

const linked = (said) => {
  const { executionId, workflowId } = object(said);
  return executionId === undefined || executionId === null
    ? undefined
    : { executionId: text(String(executionId), 100), workflowId: text(workflowId, 255) };
};

const outputs = (run) => list(object(object(run).data).main).map(list);

function inputItems(run, runData) {
  let count = 0;
  for (const source of list(run.source)) {
    const { previousNode, previousNodeRun, previousNodeOutput } = object(source);
    const before = list(runData[previousNode])[previousNodeRun ?? 0];
    count += (outputs(before)[previousNodeOutput ?? 0] ?? []).length;
  }
  return count;
}

function run(name, told, index, runData, described) {
  const { startTime, executionTime, executionIndex, executionStatus, error, metadata } = object(told);
  const of = object(described.get(name));
  const sub = object(metadata).subExecution;
  const goesOn = of.continueOnFail === true || /^continue(Regular|Error)Output$/.test(text(of.onError) ?? '');
  const made = outputs(told);
  const hasFailed = (item) => object(object(item).json).error || object(item).error;
  const failed = goesOn ? made.flat().filter(hasFailed).length : 0;
  return {
    name: text(name, 255),
    id: text(of.id, 100),
    type: text(of.type, 255),
    typeVersion: number(of.typeVersion),
    run: index,
    executionIndex: number(executionIndex),
    startTime: number(startTime),
    executionTime: number(executionTime),
    status: text(executionStatus, 50),
    error: failure(error),
    subExecutions: (Array.isArray(sub) ? sub : [sub]).map(linked).filter(Boolean).slice(0, 100),
    items: { input: inputItems(object(told), runData), output: made.reduce((sum, items) => sum + items.length, 0) },
    // That items failed in a node that goes on; what they say is data.
    softError: failed > 0 ? { items: failed } : undefined,
  };
}

const TRACEPARENT = /^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;

// What starts a workflow over HTTP and keeps the request's headers in its first item.
const TAKES_REQUESTS = /(^|\.)(webhook|formTrigger|mcpTrigger|chatTrigger)$/i;

// The headers of the request that started an execution; while its first node has not ended, the request waits for it.
function requestHeaders(runData, described, waiting) {
  const takes = (node) => TAKES_REQUESTS.test(text(object(node).type) ?? '');
  const ran = Object.keys(runData).find((name) => takes(described.get(name)) && list(runData[name]).length > 0);
  const entries = [list(runData[ran])[0], waiting.find((entry) => takes(object(entry).node))];
  const items = entries.map((entry) => object(outputs(entry).flat().find((item) => item === object(item))));
  return object(items.map((item) => object(item.json).headers).find(Boolean));
}

function trace(request) {
  const traceparent = text(request.traceparent, 55);
  return TRACEPARENT.test(traceparent ?? '') ? { traceparent, tracestate: text(request.tracestate, 512) } : {};
}

// Nodes that work inside n8n, the ones that loops run most. They are no rows unless the webhook wants all nodes.
const INSIDE = new Set([
  'aggregate', 'code', 'compareDatasets', 'dateTime', 'filter', 'function', 'functionItem', 'if', 'itemLists', 'limit',
  'merge', 'noOp', 'removeDuplicates', 'renameKeys', 'set', 'sort', 'splitInBatches', 'splitOut', 'summarize', 'switch',
]);

// The node runs that are told: what may reach outside before what stays inside, and of each node as many as of others.
function chosen(runs, described) {
  if (runs.length <= MAX_RUNS) return runs;
  const inside = ([name]) => INSIDE.has(text(object(described.get(name)).type)?.split('.').pop());
  const byRun = (one, other) => one[2] - other[2];
  const wanted = [...runs.filter((each) => !inside(each)).sort(byRun), ...runs.filter(inside).sort(byRun)];
  const kept = new Set(wanted.slice(0, MAX_RUNS));
  return runs.filter((each) => kept.has(each));
}

function execution(said, executionId, of) {
  const { data, mode, status, finished, startedAt, stoppedAt, waitTill } = object(said);
  const { resultData, executionData, parentExecution } = object(data);
  const { runData, error, lastNodeExecuted } = object(resultData);
  const described = new Map(list(object(of).nodes).map((each) => [object(each).name, each]));
  const runs = Object.entries(object(runData)).flatMap(([name, told]) =>
    list(told).map((each, index) => [name, each, index]),
  );
  const caller = Object.values(object(runData))
    .map((told) => linked(object(object(list(told)[0]).metadata).parentExecution))
    .find(Boolean);
  const started = object(object(executionData).runtimeData).parentExecutionId;
  return {
    id: text(String(executionId ?? ''), 100) || undefined,
    instance: text(process.env.ELF_N8N_INSTANCE, 255) || undefined,
    mode: text(mode, 50),
    status: text(status, 50),
    finished: flag(finished),
    startedAt: moment(startedAt),
    stoppedAt: moment(stoppedAt),
    waitTill: moment(waitTill),
    error: failure(error),
    lastNodeExecuted: text(lastNodeExecuted, 255),
    parentExecution: linked(parentExecution) ?? caller ?? linked({ executionId: started }),
    ...trace(requestHeaders(object(runData), described, list(object(executionData).nodeExecutionStack))),
    nodes: chosen(runs, described).map(([name, told, index]) => run(name, told, index, object(runData), described)),
    nodesLeftOut: runs.length > MAX_RUNS ? runs.length - MAX_RUNS : undefined,
  };
}

// ---- delivery -------------------------------------------------------------------------------------------------------

class Sender {
  constructor(url, token, warn, onRecovery) {
    const client = url.protocol === 'https:' ? https : http;
    this.agent = new client.Agent({ keepAlive: true, maxSockets: 1 });
    this.request = client.request;
    this.url = url;
    this.headers = token ? { authorization: `Bearer ${token}` } : {};
    this.warn = warn;
    this.onRecovery = onRecovery;
    this.waiting = [];
    this.bytes = 0;
    this.failures = 0;
    this.lost = 0;
    this.missed = new Set();
    this.busy = false;
    this.warned = -Infinity;
  }

  get full() {
    return this.waiting.length >= MAX_WAITING;
  }

  // Takes an event; what becomes of it is nobody's to wait for.
  put(event) {
    try {
      const body = Buffer.from(JSON.stringify(event));
      if (this.full || this.bytes + body.length > MAX_WAITING_BYTES) {
        this.lose(event.workflow.id, 'too many wait already');
        return;
      }
      this.waiting.push({ body, id: event.workflow.id });
      this.bytes += body.length;
      if (!this.busy) this.later(0);
    } catch (error) {
      this.complain(error);
    }
  }

  later(milliseconds) {
    this.busy = true;
    const go = () => {
      try {
        this.next();
      } catch (error) {
        this.busy = false;
        this.complain(error);
      }
    };
    if (milliseconds === 0) setImmediate(go);
    else setTimeout(go, milliseconds).unref();
  }

  next() {
    const event = this.waiting.shift();
    if (event === undefined) {
      this.busy = false;
      return;
    }
    this.bytes -= event.body.length;
    this.post(event.body, (problem, status) => {
      if (problem === undefined) {
        this.failures = 0;
        this.later(0);
        if (this.missed.size > 0) this.recovered();
        return;
      }
      this.lose(event.id, problem, status === undefined || status >= 500 || status === 429);
      // A receiver that refuses one event may take the next; one that is away is left alone for a while.
      const away = status === undefined || status === 401 || status >= 500 || status === 429;
      this.failures = away ? this.failures + 1 : 0;
      this.later(away ? Math.min(LONGEST_PAUSE_MS, 250 * 2 ** this.failures) : 0);
    });
  }

  post(body, done) {
    let told = false;
    const once = (problem, status) => {
      if (told) return;
      told = true;
      clearTimeout(limit);
      try {
        done(problem, status);
      } catch (error) {
        this.busy = false;
        this.complain(error);
      }
    };
    let request;
    const limit = setTimeout(() => {
      once(`no answer within ${ABORT_MS / 1000} s`);
      request?.destroy();
    }, ABORT_MS).unref();
    try {
      const headers = { ...this.headers, 'content-type': 'application/json', 'content-length': body.length };
      request = this.request(this.url, { method: 'POST', agent: this.agent, headers }, (answer) => {
        const { statusCode } = answer;
        answer.on('error', (error) => once(error.message));
        answer.on('end', () => {
          const fine = statusCode >= 200 && statusCode < 300;
          const hint = statusCode === 401 ? ': is ELF_N8N_WEBHOOK_TOKEN right?' : '';
          once(fine ? undefined : `it answers ${statusCode}${hint}`, statusCode);
        });
        answer.resume();
      });
      request.on('error', (error) => once(error.message || error.code || 'the connection failed'));
      request.end(body);
    } catch (error) {
      once(String(error?.message ?? error));
    }
  }

  lose(id, why, again = true) {
    this.lost += 1;
    if (again && id && this.missed.size < MAX_MISSED) this.missed.add(id);
    const now = Date.now();
    if (now - this.warned < WARN_EVERY_MS) return;
    this.warned = now;
    const events = this.lost === 1 ? '1 event was' : `${this.lost} events were`;
    this.warn(`${events} not delivered to ${this.url.origin} (${why}); ${this.waiting.length} wait`);
    this.lost = 0;
  }

  recovered() {
    const missed = [...this.missed];
    this.missed.clear();
    const more = this.lost > 0 ? `; ${this.lost} more were not delivered` : '';
    this.lost = 0;
    this.warn(`${this.url.origin} takes events again${more}`);
    this.onRecovery(missed);
  }

  complain(error) {
    this.lose('', String(error?.message ?? error), false);
  }
}

// ---- the hooks ------------------------------------------------------------------------------------------------------

function warn(line) {
  try {
    process.stderr.write(`elf-hooks: ${String(line).replace(/\s+/g, ' ').slice(0, 500)}\n`);
  } catch {
    // Nobody listens.
  }
}

function receiver() {
  const said = process.env.ELF_N8N_WEBHOOK_URL;
  if (!said) {
    warn('off: set ELF_N8N_WEBHOOK_URL to where `elf-telemetry n8n webhook` listens');
    return undefined;
  }
  const url = URL.canParse(said) ? new URL(said) : undefined;
  if (url?.protocol === 'http:' || url?.protocol === 'https:') return url;
  warn('off: ELF_N8N_WEBHOOK_URL is not an http or https URL');
  return undefined;
}

function hooks(url) {
  let workflows; // n8n's repository of workflows, seen with the first hook
  const sender = new Sender(url, process.env.ELF_N8N_WEBHOOK_TOKEN, warn, (ids) => void tellAgain(ids));
  const about = (event, described) => ({ event, workflow: described });
  const pause = (milliseconds) => new Promise((resolve) => void setTimeout(resolve, milliseconds).unref());
  const room = async () => {
    while (sender.waiting.length > MAX_WAITING / 2) await pause(200);
  };

  // The workflows as n8n's database has them now; read one by one, so that no older state overtakes a newer event.
  async function tellAgain(ids) {
    if (!workflows) return;
    try {
      for (const id of ids) {
        await room();
        const found = await workflows.findOne({ where: { id }, relations: RELATIONS });
        sender.put(found ? about('workflow.updated', workflow(found)) : about('workflow.deleted', { id }));
      }
    } catch (error) {
      warn(`workflows are not told again: ${error?.message ?? error}`);
    }
  }

  async function tellAll() {
    try {
      const found = await workflows.find({ select: { id: true } });
      await tellAgain(found.map((each) => each.id));
    } catch (error) {
      warn(`the first sync failed: ${error?.message ?? error}`);
    }
  }

  // n8n hands a retry's origin to nobody; its own row of the execution has it.
  async function tellRetry(event) {
    try {
      const executions = workflows.manager.getRepository('ExecutionEntity');
      const { id } = event.execution;
      const found = await executions.findOne({ select: { id: true, retryOf: true }, where: { id } });
      event.execution.retryOf = text(found?.retryOf, 100);
    } catch {
      // Told without it.
    }
    tell(event);
  }

  // A sub-workflow ends before the execution that started it, which alone knows the trace: it is told right after that
  // one when it ends soon, else by itself.
  const held = new Map();
  function tell(event) {
    const parent = event.execution.parentExecution?.executionId;
    if (event.execution.mode === 'integrated' && parent !== undefined && held.size < MAX_HELD) {
      const timer = setTimeout(() => held.delete(event) && put(event), HOLD_MS).unref();
      held.set(event, { parent, timer });
    } else {
      put(event);
    }
  }
  function put(event) {
    sender.put(event);
    for (const [child, { parent, timer }] of held) {
      if (parent !== event.execution.id) continue;
      clearTimeout(timer);
      held.delete(child);
      // What a run in n8n's editor started is a trial too, which n8n does not say.
      if (event.execution.mode === 'manual') child.execution.mode = 'manual';
      put(child);
    }
  }

  // A hook that cannot fail, and has no promise to wait for.
  const hook = (tell) =>
    function told(...given) {
      try {
        workflows ??= this?.dbCollections?.Workflow;
        tell(...given);
      } catch (error) {
        sender.complain(error);
      }
    };
  const whole = (event) => hook((said) => sender.put(about(event, workflow(said))));
  // These come before the change is saved, so the object still tells what was; the event's name tells what shall be,
  // and n8n's database, a little later, whether it is.
  const moved = (event) =>
    hook((said) => {
      const described = workflow(said);
      sender.put(about(event, { ...described, active: undefined }));
      if (workflows) setTimeout(() => void tellAgain([described.id]), CONFIRM_MS).unref();
    });
  const named = (event) => hook((id) => sender.put(about(event, { id: text(String(id), 255) })));
  let warnedOfSize = -Infinity;
  function warnOfSize({ execution: { id, nodes, nodesLeftOut }, workflow: { name } }) {
    const now = Date.now();
    if (nodesLeftOut === undefined || now - warnedOfSize < WARN_EVERY_MS) return;
    warnedOfSize = now;
    warn(`execution ${id} of ${name} is told without ${nodesLeftOut} of its ${nodes.length + nodesLeftOut} node runs`);
  }
  const executed = hook((said, of, id) => {
    // In queue mode n8n calls this in the worker that ran it, and again, with the job's id, in whoever queued it.
    if (object(said).jobId !== undefined) return;
    if (sender.full) {
      sender.lose(text(object(of).id, 255) ?? '', 'too many wait already');
      return;
    }
    const event = { ...about('workflow.executed', workflow(of)), execution: execution(said, id, of) };
    warnOfSize(event);
    if (event.execution.status === 'waiting') sender.put(event);
    else if (event.execution.mode === 'retry') void tellRetry(event);
    else tell(event);
  });

  return {
    n8n: { ready: [hook(() => void tellAll())] },
    workflow: {
      afterCreate: [whole('workflow.created')],
      afterUpdate: [whole('workflow.updated')],
      activate: [moved('workflow.activated')],
      deactivate: [moved('workflow.deactivated')],
      afterArchive: [named('workflow.archived')],
      afterUnarchive: [named('workflow.unarchived')],
      afterDelete: [named('workflow.deleted')],
      postExecute: [executed],
    },
  };
}

const url = receiver();
module.exports = url ? hooks(url) : {};
