// Stands in for n8n: calls external hooks as n8n does, awaiting each, with arguments captured from a real one.
//
//   node n8n_hooks_caller.cjs HOOKS_FILE    and on stdin one JSON a line: {"hook": "workflow.afterCreate", "args": […]},
//                                           {"workflows": […]} for n8n's database, {"hostile": true}
//
// It answers each line with one of its own: what the hook returned, or what it threw. It ends with its stdin.

'use strict';

const readline = require('node:readline');

const file = require(process.argv[2]);
let workflows = [];
const dbCollections = {
  Workflow: {
    find: async () => workflows.map(({ id }) => ({ id })),
    findOne: async ({ where }) => workflows.find(({ id }) => id === where.id) ?? null,
    manager: { getRepository: () => ({ findOne: async () => ({ retryOf: '7' }) }) },
  },
};

const circular = {};
circular.self = circular;
const throwing = new Proxy({}, { get: () => { throw new Error('touched'); } });
const HOSTILE = [
  [], [null, null, null], [undefined], [1, 2, 3], ['x', 'y', 'z'], [circular, circular, circular],
  [throwing, throwing, throwing], [{ nodes: [null, 3, throwing] }], [{ id: {}, nodes: {} }],
  [{ data: { resultData: { runData: { a: [null, { data: { main: [[null, 3]] } }], b: 'x' } } } }, { id: 'w' }, 4],
];

async function run(name, args) {
  const [resource, operation] = name.split('.');
  for (const hook of file[resource]?.[operation] ?? []) {
    const returned = hook.apply({ dbCollections }, args);
    if (returned !== undefined) return { returned: String(returned) };
    await returned;
  }
  return {};
}

async function answer(line) {
  if (line.workflows) {
    workflows = line.workflows;
    return {};
  }
  if (line.hostile) {
    const names = Object.entries(file).flatMap(([resource, operations]) => Object.keys(operations).map((each) => `${resource}.${each}`));
    for (const name of names) for (const args of HOSTILE) await run(name, args);
    return { hooks: names };
  }
  return run(line.hook, line.args);
}

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  let said;
  try {
    said = await answer(JSON.parse(line));
  } catch (error) {
    said = { thrown: String(error) };
  }
  process.stdout.write(`${JSON.stringify(said)}\n`);
}).on('close', () => process.exit(0));
