// Changes: what a model or replica allows in its state, a dialog that says what would happen, and the operation.

import { Ask, Choice, Field, Problem, html, useEffect, useState, word } from './parts.js';
import { ask, changed, mayChange, poll, say, store } from './store.js';
import { plural } from './format.js';

const RUNNING = new Set(['ready', 'starting', 'waking', 'unhealthy', 'backoff', 'draining', 'waiting']);
export const TITLES = {
  load: 'Load', unload: 'Unload', sleep: 'Sleep', wake: 'Wake', restart: 'Restart', pin: 'Pin', unpin: 'Unpin', scale: 'Scale',
  migrate: 'Migrate', lease: 'Benchmark', reload: 'Reload the router',
};
const LOSES = new Set(['unload', 'sleep', 'restart', 'lease']); // requests that run must finish first

// Berth checks the same again, and says why an operation is denied.
export function actionsOf(model) {
  const own = model.replicas.filter((one) => !one.attached);
  const any = (...statuses) => own.some((one) => statuses.includes(one.status));
  const loaded = own.some((one) => RUNNING.has(one.status));
  const actions = [];
  if (!own.length) return actions;
  if (any('asleep') && !any('ready')) actions.push('wake');
  if (!loaded && !any('asleep')) actions.push('load');
  if (any('failed', 'backoff') && !any('ready') && !actions.includes('load')) actions.push('load');
  if (any('ready') && !model.pin && own.some((one) => one.can_sleep)) actions.push('sleep');
  if ((loaded || any('asleep')) && !model.pin) actions.push('unload');
  if (loaded) actions.push('restart');
  if (model.standby === 'hot' && own.length > 1) actions.push('scale');
  if (model.standby === 'cold' && model.replicas.length > 1 && own.length > 1) actions.push('migrate');
  if (model.task === 'generate' && !model.pin) actions.push('lease');
  actions.push(model.pin ? 'unpin' : 'pin');
  return actions;
}

export const replicaActions = (replica) => (!replica.attached && RUNNING.has(replica.status) ? ['restart'] : []);

export function Buttons({ actions, ...fields }) {
  const [open, setOpen] = useState('');
  if (!mayChange() || !actions.length) return null;
  return html`<span class="buttons">${actions.map((action) => html`<button type="button" class="small" key=${action}
    aria-label=${`${TITLES[action]} ${fields.target}`} onClick=${() => setOpen(action)}>${TITLES[action]}</button>`)}
    ${open && { tag: Confirm, props: { ...fields, action: open, onClose: () => setOpen('') } }}</span>`;
}

const STEPS = { steps: '1,5,25,100', step_s: 300, step_requests: 100 };
const BACK = { steps: '100', step_s: 0, step_requests: 0 }; // to a revision that has served

const change = (action, model, fields) => ask('/admin/operations', { method: 'POST', body: { action, model, ...fields } });

// `others`: the replicas that a migration may lead to; `revision`: the one that it leads back to.
export function Confirm({ action, target, running = 0, most = 1, others = [], revision, onClose }) {
  const [plan, setPlan] = useState(null);
  const [error, setError] = useState('');
  const [given, setGiven] = useState({ count: most, drain_s: 300, to: others[0], engines: '', workload: 'chat', long: '', ...(revision ? BACK : STEPS) });
  const set = (name) => (value) => setGiven({ ...given, [name]: value });
  const field = (name, label, type) => html`<${Field} label=${label} type=${type} value=${given[name]} onInput=${set(name)} />`;
  const loses = LOSES.has(action);
  const { steps, to, step_s, step_requests, engines, workload, long } = given;
  const migrate = { to: revision ? '' : to, revision, steps: String(steps).split(',').map(Number), step_s: Number(step_s), step_requests: Number(step_requests) };
  const fields = { ...(action === 'scale' && { count: Number(given.count) }), ...(loses && { drain_s: Number(given.drain_s) }), ...(action === 'migrate' && { migrate }) };
  useEffect(() => {
    setError('');
    change(action, target, { ...fields, dry_run: true }).then(setPlan, (failure) => { setPlan(null); setError(failure.message); });
  }, [JSON.stringify(fields)]);
  const bench = () => ask('/admin/bench', { method: 'POST', body: { ...fields, model: target, engines: engines.split(/[, ]+/).filter(Boolean), workload, quick: !long, yes: true } });
  const act = () => (action === 'lease' ? bench() : change(action, target, fields)).then((reply) => void track(reply.operation));
  const { migration } = plan?.operation ?? {};
  return html`<${Ask} title=${`${TITLES[action]} ${target}${revision ? ` back to revision ${revision}` : ''}`} label=${TITLES[action]} ready=${plan} act=${act} onClose=${onClose}>
    ${action === 'scale' && field('count', 'Replicas to be loaded')}
    ${action === 'migrate' && html`<div class="row">
      ${!revision && html`<${Choice} label="To" value=${to} options=${others.map((name) => [name, name])} onChange=${set('to')} />`}
      ${field('steps', 'Percent of the conversations, by steps', 'text')}${field('step_s', 'Seconds of a step')}${field('step_requests', 'Requests of a step')}</div>`}
    ${action === 'lease' && html`<p><b>It serves no clients meanwhile.</b></p><div class="row">
      <${Choice} label="Takes" value=${long} options=${[['', 'minutes'], ['1', 'an hour']]} onChange=${set('long')} />
      ${field('workload', 'Workload', 'text')}${field('engines', 'Only these engines', 'text')}</div>`}
    <${Problem} text=${error} />
    ${plan && html`
      ${migration && html`<p>Revision ${migration.revision}: ${migration.how === 'swap' ? `one after the other; requests wait for about ${Math.ceil(migration.hold_s)} s` : 'both run at the same time, which fits'}.</p>`}
      ${plan.steps.length > 0 && html`<ul>${plan.steps.map((one) => html`<li><b>${one.replica}</b>: ${word(one.status)} → ${word(one.to)}${one.about_s ? `, about ${Math.ceil(one.about_s)} s` : ''}${one.why ? `: ${one.why}` : ''}</li>`)}</ul>`}
      ${loses && html`<p>${running ? `${plural(running, 'running request')} may finish first.` : 'No request is running.'}</p>`}`}
    ${loses && field('drain_s', 'Seconds until running requests are cut')}</${Ask}>`;
}

// Until the operation is over; the line at the bottom says how it goes.
async function track(operation) {
  while (operation) {
    say(`${TITLES[operation.action]} ${operation.model}: ${operation.state}${operation.reason ? ` – ${operation.reason}` : ''}`);
    store.operations = { ...store.operations, [operation.id]: operation };
    changed();
    poll();
    if (operation.state !== 'running' || operation.migration) return; // the view System shows the rest of a migration
    await new Promise((done) => setTimeout(done, 1000));
    const { id } = operation;
    operation = await ask(`/admin/operations/${id}`).then((reply) => reply.operation, () => operation);
  }
}

export function Running() {
  const running = Object.values(store.operations ?? {}).filter((one) => one.state === 'running');
  if (!running.length) return null;
  return html`<ul class="plain">${running.map((one) => html`<li key=${one.id}>${TITLES[one.action]} <b>${one.model}</b>: ${one.reason || one.progress || 'running'}
    ${one.migration ? html`<a class="button small" href="#/system">Details</a>` : mayChange() && html`<button type="button" class="small" onClick=${() => ask(`/admin/operations/${one.id}`, { method: 'DELETE' }).catch((error) => say(error.message))}>Cancel</button>`}</li>`)}</ul>`;
}
