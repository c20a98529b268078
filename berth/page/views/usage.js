// For admins the clients' keys with their limits, what each used of each model, and who changed what; for a client its own.

import { Age, Bar, Choice, Problem, Rows, download, html, redraw, useAsked } from '../parts.js';
import { date, number } from '../format.js';
import { mayChange } from '../store.js';

const GROUPS = { '': 'key and model', key: 'key', model: 'model', day: 'day' };
const LIMITS = { requests_per_minute: 'requests/min', tokens_per_minute: 'tokens/min', concurrency: 'at a time', tokens_per_day: 'tokens/day', tokens_per_month: 'tokens/month' };
const FIELDS = { requests: 'Requests', errors: 'Errors', prompt: 'Prompt tokens', cached: 'of them cached', completion: 'Response tokens' };
let asked = { by: '', month: '' };

export const Usage = () => (mayChange() ? html`<${Everyone} />` : html`<${Own} />`);

const Uses = ({ label, columns, rows }) => html`<${Rows} label=${label} head=${columns.map((name) => FIELDS[name] ?? name)}
  rows=${rows.map((row) => columns.map((name) => (typeof row[name] === 'number' ? number(row[name]) : row[name])))} />`;

function Own() {
  const [found, error] = useAsked('/usage');
  return html`<h1>Usage</h1><${Problem} text=${error} />
    ${found && html`<p>The key <b>${found.key}</b> in ${found.month}${found.expires ? `; it expires on ${date(found.expires)}` : ''}.</p>
      ${found.budgets.map((one) => html`<p><${Bar} value=${one.used} most=${one.limit} text=${`${number(one.used)} of ${number(one.limit)} tokens this ${one.period}`} label=${`Tokens of this ${one.period}`} /></p>`)}
      ${found.rows.length ? html`<${Uses} label="Usage by model" columns=${['model', ...Object.keys(FIELDS)]} rows=${found.rows} />` : html`<p class="muted">Nothing was used in ${found.month}.</p>`}`}`;
}

function Everyone() {
  const set = (fields) => { asked = { ...asked, ...fields }; redraw(); };
  const [keys, noKeys] = useAsked('/admin/keys');
  const [audit, noAudit] = useAsked('/admin/audit');
  const [usage, noUsage] = useAsked(`/admin/usage?${new URLSearchParams(asked)}`);
  const columns = [...(asked.by ? [asked.by] : ['key', 'model']), ...Object.keys(FIELDS)];
  const csv = () => [columns, ...usage.rows.map((row) => columns.map((name) => row[name] ?? ''))].map((cells) => cells.join()).join('\n');
  return html`<h1>Usage</h1>
    <${Problem} text=${noKeys || noUsage || noAudit} />
    <h2>Keys</h2>
    ${keys && (keys.keys.length ? html`<${Rows} label="Keys" head=${['Name', 'Models', 'Limits', 'Priority', 'Share', 'Expires']} rows=${keys.keys.map((key) => [key.name, key.models.join(', ') || 'all',
      Object.entries(LIMITS).filter(([name]) => key[name]).map(([name, unit]) => `${number(key[name])} ${unit}`).join(', ') || 'none',
      key.priority, number(key.share, 2), key.expires ? date(key.expires) : 'never'])} />`
      : html`<p class="muted">None: <code>berth key new NAME</code> makes one, and says where it goes.</p>`)}
    <h2>Usage</h2>
    <div class="row"><${Choice} label="By" value=${asked.by} options=${Object.entries(GROUPS)} onChange=${(by) => set({ by })} />
      <label>Month <input type="month" value=${asked.month || usage?.month || ''} onInput=${(event) => set({ month: event.target.value })} /></label>
      <button type="button" disabled=${!usage?.rows.length} onClick=${() => download(`usage-${usage.month}.csv`, csv(), 'text/csv')}>Download CSV</button></div>
    ${usage && (usage.rows.length ? html`<${Uses} label=${`Usage by ${GROUPS[asked.by]}`} columns=${columns} rows=${usage.rows} />`
      : html`<p class="muted">Nothing was used in ${usage.month}.</p>`)}
    <h2>Changes</h2>
    ${audit && html`<${Rows} label="Changes" head=${['When', 'Who', 'What', 'Result']}
      rows=${[...audit.entries].reverse().map((one) => [html`<${Age} at=${one.t} />`, `${one.who} ${one.origin}`, `${one.what} ${one.target}`, one.result])} />`}`;
}
