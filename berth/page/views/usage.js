// For admins the clients' keys with their limits, what each used of each model, and who changed what; for a client its own.

import { Age, Bar, Choice, Table, html, redraw, useEffect, useState } from '../parts.js';
import { date, number } from '../format.js';
import { ask, mayChange } from '../store.js';

const GROUPS = { '': 'key and model', key: 'key', model: 'model', day: 'day' };
const LIMITS = { requests_per_minute: 'requests/min', tokens_per_minute: 'tokens/min', concurrency: 'at a time', tokens_per_day: 'tokens/day', tokens_per_month: 'tokens/month' };
const FIELDS = { requests: 'Requests', errors: 'Errors', prompt: 'Prompt tokens', cached: 'of them cached', completion: 'Response tokens' };
let asked = { by: '', month: '' };

const download = (name, text) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'text/csv' }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href));
};

export const Usage = () => (mayChange() ? html`<${Everyone} />` : html`<${Own} />`);

const Uses = ({ label, columns, rows }) => html`<${Table} label=${label} head=${columns.map((name) => FIELDS[name] ?? name)}><tbody>
  ${rows.map((row) => html`<tr key=${columns.slice(0, 2).map((name) => row[name]).join()}>${columns.map((name, at) => (at ? html`<td>${typeof row[name] === 'number' ? number(row[name]) : row[name]}</td>` : html`<th scope="row">${row[name]}</th>`))}</tr>`)}</tbody></${Table}>`;

function Own() {
  const [found, setFound] = useState(null);
  const [error, setError] = useState('');
  useEffect(() => { ask('/usage').then(setFound, (failure) => setError(failure.message)); }, []);
  return html`<h1>Usage</h1>${error && html`<p class="bad" role="alert">${error}</p>`}
    ${found && html`<p>The key <b>${found.key}</b> in ${found.month}${found.expires ? `; it expires on ${date(found.expires)}` : ''}.</p>
      ${found.budgets.map((one) => html`<p><${Bar} value=${one.used} most=${one.limit} text=${`${number(one.used)} of ${number(one.limit)} tokens this ${one.period}`} label=${`Tokens of this ${one.period}`} /></p>`)}
      ${found.rows.length ? html`<${Uses} label="Usage by model" columns=${['model', ...Object.keys(FIELDS)]} rows=${found.rows} />` : html`<p class="muted">Nothing was used in ${found.month}.</p>`}`}`;
}

function Everyone() {
  const [found, setFound] = useState({});
  const [error, setError] = useState('');
  const set = (fields) => { asked = { ...asked, ...fields }; redraw(); };
  const load = (name, path) => ask(path).then((reply) => setFound((before) => ({ ...before, [name]: reply })), (failure) => setError(failure.message));
  useEffect(() => { load('keys', '/admin/keys'); load('audit', '/admin/audit'); }, []);
  useEffect(() => { load('usage', `/admin/usage?${new URLSearchParams(asked)}`); }, [asked.by, asked.month]);
  const { keys, usage, audit } = found;
  const columns = [...(asked.by ? [asked.by] : ['key', 'model']), ...Object.keys(FIELDS)];
  const csv = () => [columns, ...usage.rows.map((row) => columns.map((name) => row[name] ?? ''))].map((cells) => cells.join()).join('\n');
  return html`<h1>Usage</h1>
    ${error && html`<p class="bad" role="alert">${error}</p>`}
    <h2>Keys</h2>
    ${keys && (keys.keys.length ? html`<${Table} label="Keys" head=${['Name', 'Models', 'Limits', 'Priority', 'Share', 'Expires']}><tbody>
      ${keys.keys.map((key) => html`<tr key=${key.name}><th scope="row">${key.name}</th><td>${key.models.join(', ') || 'all'}</td>
        <td>${Object.entries(LIMITS).filter(([name]) => key[name]).map(([name, unit]) => `${number(key[name])} ${unit}`).join(', ') || 'none'}</td>
        <td>${key.priority}</td><td>${number(key.share, 2)}</td><td>${key.expires ? date(key.expires) : 'never'}</td></tr>`)}</tbody></${Table}>`
      : html`<p class="muted">None: <code>berth key new NAME</code> makes one, and says where it goes.</p>`)}
    <h2>Usage</h2>
    <div class="row"><${Choice} label="By" value=${asked.by} options=${Object.entries(GROUPS)} onChange=${(by) => set({ by })} />
      <label>Month <input type="month" value=${asked.month || usage?.month || ''} onInput=${(event) => set({ month: event.target.value })} /></label>
      <button type="button" disabled=${!usage?.rows.length} onClick=${() => download(`usage-${usage.month}.csv`, csv())}>Download CSV</button></div>
    ${usage && (usage.rows.length ? html`<${Uses} label=${`Usage by ${GROUPS[asked.by]}`} columns=${columns} rows=${usage.rows} />`
      : html`<p class="muted">Nothing was used in ${usage.month}.</p>`)}
    <h2>Changes</h2>
    ${audit && html`<${Table} label="Changes" head=${['When', 'Who', 'What', 'Result']}><tbody>
      ${[...audit.entries].reverse().map((one) => html`<tr><th scope="row"><${Age} at=${one.t} /></th><td>${one.who} ${one.origin}</td><td>${one.what} ${one.target}</td><td>${one.result}</td></tr>`)}</tbody></${Table}>`}`;
}
