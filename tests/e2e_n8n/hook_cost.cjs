// How long n8n's thread is held by one `workflow.postExecute` while the receiver is dead.
//
//   ELF_N8N_WEBHOOK_URL=http://127.0.0.1:1/ node hook_cost.cjs HOOKS_FILE CAPTURED_CALLS.jsonl
//
// The captured calls of a real n8n in turn, one each millisecond; prints µs a call: median and 99th percentile while events
// may still wait, the same when no more may, and the CPU time of the process, timers and requests included, over all.

'use strict';

const fs = require('node:fs');

process.stderr.write = () => true;
const file = require(process.argv[2]);
const calls = fs.readFileSync(process.argv[3], 'utf8').trim().split('\n').map(JSON.parse);
const ended = calls.filter((call) => call.hook === 'workflow.postExecute').map((call) => call.args);
const WARM_UP = 300;
const WAITING = 950; // a thousand may wait
const FULL = 3000;
const took = [];
let cpu;

const percentiles = (values) => {
  const sorted = values.toSorted((one, other) => one - other);
  return [0.5, 0.99].map((share) => (sorted[Math.floor(share * sorted.length)] / 1000).toFixed(0)).join(' ');
};

function once(number) {
  if (number === WARM_UP) cpu = process.cpuUsage();
  if (number === FULL) {
    const spent = process.cpuUsage(cpu);
    const each = ((spent.user + spent.system) / (FULL - WARM_UP)).toFixed(0);
    console.log(`${percentiles(took.slice(WARM_UP, WAITING))} ${percentiles(took.slice(WAITING + 100))} ${each}`);
    process.exit(0);
  }
  const args = ended[number % ended.length];
  const began = process.hrtime.bigint();
  for (const hook of file.workflow.postExecute) hook.apply({}, args);
  took.push(Number(process.hrtime.bigint() - began));
  setTimeout(once, 1, number + 1);
}

once(0);
