// Changes: what a model or replica allows in its state, a dialog that says what would happen, and the operation.

import { Dialog, html, useEffect, useState, word } from './parts.js';
import { ask, changed, mayChange, poll, say, store } from './store.js';
import { plural } from './format.js';

const RUNNING = new Set(['ready', 'starting', 'waking', 'unhealthy', 'backoff', 'draining', 'waiting']);
const TITLES = {
  load: 'Load', unload: 'Unload', sleep: 'Sleep', wake: 'Wake', restart: 'Restart', pin: 'Pin', unpin: 'Unpin', scale: 'Scale',
  reload: 'Reload the router',
};
const LOSES = new Set(['unload', 'sleep', 'restart']); // requests that run must finish first

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
  actions.push(model.pin ? 'unpin' : 'pin');
  return actions;
}

export const replicaActions = (replica) => (!replica.attached && RUNNING.has(replica.status) ? ['restart'] : []);

export function Buttons({ actions, target, running = 0, most = 1 }) {
  const [open, setOpen] = useState('');
  if (!mayChange() || !actions.length) return null;
  return html`<span class="buttons">${actions.map((action) => html`<button type="button" class="small" key=${action}
    aria-label=${`${TITLES[action]} ${target}`} onClick=${() => setOpen(action)}>${TITLES[action]}</button>`)}
    ${open && html`<${Confirm} action=${open} target=${target} running=${running} most=${most} onClose=${() => setOpen('')} />`}</span>`;
}

const change = (action, target, fields = {}) => ({ action, ...(target ? { model: target } : {}), ...fields });

function Confirm({ action, target, running, most, onClose }) {
  const [plan, setPlan] = useState(null);
  const [error, setError] = useState('');
  const [count, setCount] = useState(most);
  const fields = action === 'scale' ? { count } : {};
  useEffect(() => {
    setError('');
    ask('/admin/operations', { method: 'POST', body: change(action, target, { ...fields, dry_run: true }) }).then(setPlan, (failure) => { setPlan(null); setError(failure.message); });
  }, [count]);
  const confirm = async () => {
    try {
      const reply = await ask('/admin/operations', { method: 'POST', body: change(action, target, fields) });
      onClose();
      track(reply.operation);
    } catch (failure) {
      setError(failure.message);
    }
  };
  const steps = plan?.steps ?? [];
  return html`<${Dialog} title=${`${TITLES[action]} ${target}`} onClose=${onClose}>
    ${action === 'scale' && html`<label>Replicas to be loaded <input type="number" min="1" max=${most} value=${count} onInput=${(event) => setCount(Number(event.target.value))} /></label>`}
    ${error && html`<p class="bad" role="alert">${error}</p>`}
    ${!plan && !error && html`<p>Asking what would happen …</p>`}
    ${plan && html`
      ${steps.length > 0 && html`<ul>${steps.map((one) => html`<li><b>${one.replica}</b>: ${word(one.status)} → ${word(one.to)}${one.about_s ? `, about ${Math.ceil(one.about_s)} s` : ''}${one.why ? `: ${one.why}` : ''}</li>`)}</ul>`}
      ${LOSES.has(action) && running > 0 && html`<p>${plural(running, 'running request')} may finish first, for up to 5 minutes.</p>`}
      ${LOSES.has(action) && running === 0 && html`<p>No request is running.</p>`}`}
    <div class="row"><button type="button" class="main" disabled=${!plan} onClick=${confirm}>${TITLES[action]}</button>
      <button type="button" onClick=${onClose}>Cancel</button></div></${Dialog}>`;
}

// Until the operation is over; the line at the bottom says how it goes.
async function track(operation) {
  while (operation) {
    say(`${TITLES[operation.action]} ${operation.model}: ${operation.state}${operation.reason ? ` – ${operation.reason}` : ''}`);
    store.operations = { ...store.operations, [operation.id]: operation };
    changed();
    poll();
    if (operation.state !== 'running') return;
    await new Promise((done) => setTimeout(done, 1000));
    const { id } = operation;
    operation = await ask(`/admin/operations/${id}`).then((reply) => reply.operation, () => operation);
  }
}

export function Running() {
  const running = Object.values(store.operations ?? {}).filter((one) => one.state === 'running');
  if (!running.length) return null;
  return html`<ul class="plain">${running.map((one) => html`<li key=${one.id}>${TITLES[one.action]} <b>${one.model}</b>: running${one.reason ? ` – ${one.reason}` : ''}
    <button type="button" class="small" onClick=${() => ask(`/admin/operations/${one.id}`, { method: 'DELETE' }).catch((error) => say(error.message))}>Cancel</button></li>`)}</ul>`;
}
