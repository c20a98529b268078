// The last requests and those in progress: who answered, fallbacks and continuations, and where the time went.

import { Choice, Table, html, redraw, useState } from '../parts.js';
import { clock, date, number, seconds } from '../format.js';
import { idOf, store } from '../store.js';

const SHOWN = {
  all: ['all', () => true],
  errors: ['errors', (one) => one.status >= 400 || one.flags.includes('broken')],
  fallbacks: ['fallbacks', (one) => one.flags.includes('fallback') || one.attempts > 1],
  continued: ['continued', (one) => one.flags.includes('continued')],
  slow: ['slow', (one) => one.duration_s > 10 || one.queue_s > 1],
};
const MOST_ROWS = 200;
let picked = { kind: 'all', model: '', text: '' };

const marks = (one) => [
  one.flags.includes('continued') && `continued at token ${number(one.moved_at_token)}`,
  one.flags.includes('fallback') && !one.flags.includes('continued') && 'another engine had failed',
  one.flags.includes('preempted') && 'preempted',
  one.flags.includes('broken') && 'stream broke',
  one.flags.includes('client_gone') && 'client left',
  one.flags.includes('limited') && 'limited',
  one.error_code,
].filter(Boolean).join(', ');

const served = (one) => (one.previous_replica && one.previous_replica !== one.replica ? `${one.previous_replica} → ${one.replica}` : one.replica || '–');

export function Requests() {
  const [open, setOpen] = useState('');
  const set = (fields) => { picked = { ...picked, ...fields }; redraw(); };
  if (!store.requests) return html`<h1>Requests</h1><p class="muted">${store.link === 'polling' ? 'Requests come with live events, and this Berth does not send any now.' : store.error || 'Waiting for data …'}</p>`;
  const matches = (one) => (!picked.model || one.model === picked.model) && `${one.request} ${one.key} ${one.replica} ${one.api} ${one.error_code}`.includes(picked.text);
  const shown = store.requests.filter((one) => SHOWN[picked.kind][1](one) && matches(one)).slice(0, MOST_ROWS);
  const running = store.running.filter(matches);
  const models = [...new Set([...store.running, ...store.requests].map((one) => one.model).filter(Boolean))].sort();
  return html`<h1>Requests</h1>
    <div class="row">
      <${Choice} label="Show" value=${picked.kind} options=${Object.entries(SHOWN).map(([id, [title]]) => [id, title])} onChange=${(kind) => set({ kind })} />
      <${Choice} label="Model" value=${picked.model} options=${[['', 'all'], ...models.map((name) => [name, name])]} onChange=${(model) => set({ model })} />
      <label>Filter <input type="search" data-filter placeholder="id, key, engine, API or error" value=${picked.text} onInput=${(event) => set({ text: event.target.value })} /></label></div>
    <h2>Running: ${number(running.length)}</h2>
    ${running.length > 0 && html`<${Table} label="Running requests" head=${['Age', 'Key', 'API', 'Model', 'Engine', 'Phase', 'Tokens']}><tbody>
      ${running.map((one) => html`<tr key=${idOf(one)}><th scope="row">${seconds(one.duration_s)}</th><td>${one.key || '–'}</td><td>${one.api}</td><td>${one.model}</td><td>${served(one)}</td>
        <td>${one.phase}${marks(one) && html` <span class="busy">⤳ ${marks(one)}</span>`}</td><td>${number(one.frames)}</td></tr>`)}</tbody></${Table}>`}
    <h2>The last ${number(shown.length)}${store.skipped ? html` <span class="muted">(${number(store.skipped)} not shown: there were too many at a time)</span>` : ''}</h2>
    ${shown.length > 0 && html`<${Table} label="Requests that are over" name="over" head=${['Time', 'Key', 'API', 'Model', 'Engine', 'Status', 'Queue', 'First token', 'Total', 'Tokens', 'Marks']}>
      ${shown.map((one) => html`<${Row} key=${idOf(one)} one=${one} open=${open === idOf(one)} onToggle=${() => setOpen(open === idOf(one) ? '' : idOf(one))} />`)}</${Table}>`}`;
}

function Row({ one, open, onToggle }) {
  const bad = one.status >= 400 || one.flags.includes('broken');
  const end = one.start + one.duration_s;
  return html`<tbody><tr><th scope="row"><button type="button" class="small" aria-expanded=${open} title=${date(end)} onClick=${onToggle}>${clock(end)}</button></th>
      <td>${one.key || '–'}</td><td>${one.api}</td><td>${one.model || '–'}</td><td>${served(one)}</td><td class=${bad ? 'bad' : ''}>${bad ? '▲ ' : ''}${one.status}</td>
      <td class="num">${one.queue_s > 0.001 ? seconds(one.queue_s) : '–'}</td><td class="num">${seconds(one.first_token_s)}</td><td class="num">${seconds(one.duration_s)}</td>
      <td class="num">${number(one.prompt_tokens)}+${number(one.completion_tokens)}</td><td>${marks(one) && html`<span class=${bad ? 'bad' : 'busy'}>⤳ ${marks(one)}</span>`}</td></tr>
    ${open && html`<tr><td colspan="11"><${Fall} one=${one} /></td></tr>`}</tbody>`;
}

// Where the time went: in the queue, until the first token, and until the end.
function Fall({ one }) {
  const first = one.first_token_s ?? one.duration_s;
  const parts = [
    ['queue', 'queue', one.queue_s],
    ['first', one.first_token_s === null ? 'response' : 'first token', Math.max(0, first - one.queue_s)],
    ['stream', 'stream', Math.max(0, one.duration_s - first)],
  ].filter(([, , took]) => took > 0);
  const facts = [
    ['Request id', one.request], ['Operation', one.operation], ['Attempts', number(one.attempts)],
    ['Cached tokens', number(one.cached_tokens)], ['Trace', one.trace_id.replace(/^0+$/, '')],
    ['Flags', one.flags.join(', ')],
  ].filter(([, value]) => value);
  return html`<div class="fall" role="img" aria-label=${parts.map(([, title, took]) => `${title} ${seconds(took)}`).join(', ')}>
      ${parts.map(([name, , took]) => html`<span class=${name} style=${{ flexGrow: took }}></span>`)}</div>
    <p>${parts.map(([name, title, took]) => html`<span class="key"><span class="chip ${name}" aria-hidden="true"></span> ${title} ${seconds(took)}</span> `)}</p>
    <dl class="inline">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd><code>${value}</code></dd></div>`)}</dl>`;
}
