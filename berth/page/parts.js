// Pieces that several views use.

import { html, redraw, useEffect, useRef, useState } from './dom.js';
import { ago, date, number } from './format.js';
import { ask, say, store } from './store.js';

export { html, redraw, useEffect, useRef, useState };

const WORDS = {
  starting: 'loading', dozing: 'falling asleep', standby: 'standby', backoff: 'waits to restart',
};
const SHAPES = { good: '●', busy: '◐', bad: '▲', off: '○' };
const KINDS = {
  ready: 'good', starting: 'busy', waking: 'busy', waiting: 'busy', dozing: 'busy', draining: 'busy', stopping: 'busy',
  backoff: 'bad', unhealthy: 'bad', failed: 'bad',
};

// A status by word, shape and colour.
export const Status = ({ status, since }) => {
  const kind = KINDS[status] ?? 'off';
  return html`<span class="status ${kind}" title=${since ? `since ${date(since)}` : ''}>
    <span aria-hidden="true">${SHAPES[kind]}</span> ${WORDS[status] ?? status}</span>`;
};

export const word = (status) => WORDS[status] ?? status;

// Words between backticks are code.
export const Text = ({ text }) => text.split('`').map((part, at) => (at % 2 ? html`<code>${part}</code>` : part));

export const Age = ({ at }) => (at ? html`<time datetime=${new Date(at * 1000).toISOString()} title=${date(at)}>${ago(at)}</time>` : null);

// A bar with its value as text next to it.
export const Bar = ({ value, most = 1, text, label, high = 0.9 }) => {
  const share = most ? value / most : 0;
  return html`<span class="bar"><meter min="0" max=${most} value=${value} high=${high * most} optimum="0"
    aria-label=${label}>${number(share * 100)} %</meter> <span>${text ?? `${number(share * 100)} %`}</span></span>`;
};

export const Spark = ({ values, label }) => {
  const most = Math.max(1, ...values);
  const points = values.map((value, at) => `${(at * 120) / Math.max(1, values.length - 1)},${30 - (28 * value) / most}`);
  return html`<svg class="spark" viewBox="0 0 120 32" preserveAspectRatio="none" role="img" aria-label=${label}>
    <polyline points=${points.join(' ')} /></svg>`;
};

// A table wider than the screen scrolls by itself, also with the keyboard.
// With a `name` the style sheet may lay out its rows in another way: their roles are written out for that.
export const Table = ({ label, head, children, name = '' }) => html`<div class="scroll" role="region" tabindex="0" aria-label=${label}>
  <table class=${name} role="table"><thead role="rowgroup"><tr role="row">${head.map((one) => html`<th scope="col" role="columnheader">${one}</th>`)}</tr></thead>${children}</table></div>`;

// Rows of cells, the first of which names its row. `keys`: of rows that keep a state and change places.
const Cells = ({ rows, keys = [] }) => html`<tbody>${rows.map(([name, ...cells], at) => html`<tr key=${keys[at]}><th scope="row">${name}</th>${cells.map((one) => html`<td>${one}</td>`)}</tr>`)}</tbody>`;

export const Rows = ({ label, head, rows, keys }) => html`<${Table} label=${label} head=${head}><${Cells} rows=${rows} keys=${keys} /></${Table}>`;

export const Facts = ({ rows }) => html`<table class="facts"><${Cells} rows=${rows} /></table>`;

// A view before it has what it shows.
export const Waiting = ({ title, error }) => html`<h1>${title}</h1><p>${error || store.error || 'Waiting for data …'}</p>`;

// navigator.clipboard does not exist over plain HTTP.
export function copy(text) {
  const area = document.createElement('textarea');
  area.value = text;
  area.className = 'hidden';
  document.body.append(area);
  const focused = document.activeElement;
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  focused?.focus();
  say(done ? 'Copied.' : 'The browser did not copy: select the text instead.');
  return done;
}

export function Copy({ text, label = 'Copy' }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    const timer = done && setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  return html`<button type="button" class="small" onClick=${() => setDone(copy(text))}>${done ? 'Copied' : label}</button>`;
}

export const Code = ({ text, label }) => html`<div class="code"><pre tabindex="0" aria-label=${label}><code>${text}</code></pre><${Copy} text=${text} /></div>`;

// A modal dialog; Escape and a click outside of it close it.
export function Dialog({ title, onClose, children }) {
  const own = useRef();
  useEffect(() => {
    own.current.showModal();
    return () => own.current?.close();
  }, []);
  return html`<dialog ref=${own} aria-label=${title} onClose=${onClose} onCancel=${onClose}
    onClick=${(event) => event.target === own.current && onClose()}><div><h2>${title}</h2>${children}</div></dialog>`;
}

// An error, for who looks and who listens.
export const Problem = ({ text }) => text && html`<p class="bad" role="alert">${text}</p>`;

// What is asked before something changes: it closes when `act` has succeeded, and shows why it has not.
export function Ask({ title, label = title, ready = true, act, onClose, children }) {
  const [error, setError] = useState('');
  const confirm = () => act().then(onClose, (failure) => setError(failure.message));
  return html`<${Dialog} title=${title} onClose=${onClose}>${children}<${Problem} text=${error} />
    <div class="row"><button type="button" class="main" disabled=${!ready} onClick=${confirm}>${label}</button>
      <button type="button" onClick=${onClose}>Cancel</button></div></${Dialog}>`;
}

// The document at a path, why there is none, and a function that asks again; also by itself, where there is a period.
export function useAsked(path, period) {
  const [[found, error], setFound] = useState([null, '']);
  const load = () => path && ask(path).then((reply) => setFound([reply, '']), (failure) => setFound(([before]) => [before, failure.message]));
  useEffect(() => {
    load();
    const timer = period && setInterval(() => document.hidden || load(), period);
    return () => clearInterval(timer);
  }, [path]);
  return [found, error, load];
}

export function download(name, content, type) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href));
}

export const Field = ({ label, value, type = 'number', onInput }) => html`<label>${label}
  <input type=${type} min="0" value=${value} onInput=${(event) => onInput(event.target.value)} /></label>`;

export const Choice = ({ label, value, options, onChange }) => html`<label>${label}
  <select value=${value} onChange=${(event) => onChange(event.target.value)}>
    ${options.map(([id, text]) => html`<option value=${id} selected=${id === value}>${text}</option>`)}</select></label>`;
