// Results of `berth bench`, captured requests, and the archive for who is asked for help.

import { Age, Ask, Choice, Field, Problem, Rows, download, html, useAsked, useState } from '../parts.js';
import { clock, number, seconds } from '../format.js';
import { ask, say, store } from '../store.js';

const OUTCOMES = { faster: ['good', '●'], slower: ['bad', '▲'], tie: ['', '='], undecided: ['muted', '?'] };
const PERIOD2_MS = 5000;

export function Benches() {
  const [found, error] = useAsked('/admin/bench', 6 * PERIOD2_MS);
  return html`<h2>Benchmarks</h2><${Problem} text=${error} />
    ${found && (found.results.length ? html`<${Rows} label="Benchmarks" head=${['When', 'Model', 'Engines', 'Goodput, with 95 % interval', 'Report']} rows=${found.results.map((one) => [html`<${Age} at=${one.created} />`, html`${one.model} <span class="muted">workload ${one.workload}${one.quick ? ', quick' : ''}</span>`,
        one.engines.map((engine) => html`<div>${engine.replica} <span class="muted">${engine.version.split('+')[0]}${engine.likeness ? `, answers: ${engine.likeness}` : ''}</span>${engine.problem && html` <span class="bad">▲ ${engine.problem}</span>`}</div>`),
        html`${one.comparisons.filter((compared) => compared.metric.startsWith('goodput')).map((compared) => html`<${Comparison} one=${compared} />`)}
          ${!one.valid && html`<div class="bad">▲ invalid: a rule was broken</div>`}
          ${one.chosen && html`<div>chosen: <b>${one.chosen}</b></div>`}${one.reasons.map((text) => html`<div class="muted">${text}</div>`)}`,
        html`<a class="button small" href=${`/admin/bench/${one.id}/report`} target="_blank" rel="noopener">Report ${one.id}</a>`])} />`
      : html`<p class="muted">None yet.</p>`)}`;
}

function Comparison({ one }) {
  const [kind, mark] = OUTCOMES[one.outcome] ?? ['', ''];
  const range = one.ratio === null ? '' : ` ${number(one.ratio, 3)} times (${number(one.low, 3)} to ${number(one.high, 3)})`;
  return html`<div>${one.replica}: <span class=${kind}>${mark} ${one.outcome}</span>${range}${one.more_windows ? html` <span class="muted">${number(one.more_windows)} more windows would decide</span>` : ''}</div>`;
}

export function Capture() {
  const [found, error, load] = useAsked('/admin/capture', PERIOD2_MS);
  const [wanted, setWanted] = useState({ minutes: '10', model: '', only: 'all' });
  const [problem, setProblem] = useState('');
  const set = (name) => (value) => setWanted({ ...wanted, [name]: value });
  const send = (body) => ask('/admin/capture', { method: 'POST', body }).then(() => { setProblem(''); load(); }, (failure) => setProblem(failure.message));
  const models = (store.status?.models ?? []).map((one) => [one.name, one.name]);
  const { current, exchanges = [] } = found ?? {};
  const newest = [...exchanges].reverse();
  return html`<h2>Capture</h2><${Problem} text=${error || problem} />
    ${current ? html`<p><span class="busy">◐ requests are captured</span> until ${clock(current.ends)}: ${current.only}${current.model && ` of ${current.model}`} <button type="button" class="small" onClick=${() => send({ for_s: 0 })}>Stop</button></p>`
    : html`<form class="row" onSubmit=${(event) => { event.preventDefault(); send({ for_s: wanted.minutes * 60, model: wanted.model, only: wanted.only }); }}>
        <${Field} label="Minutes" value=${wanted.minutes} onInput=${set('minutes')} />
        <${Choice} label="Requests of" value=${wanted.model} options=${[['', 'all models'], ...models]} onChange=${set('model')} />
        <${Choice} label="Which" value=${wanted.only} options=${[['all', 'all'], ['errors', 'errors']]} onChange=${set('only')} />
        <button>Capture</button></form>
      <p class="muted">Without keys; forgotten after an hour.</p>`}
    ${exchanges.length > 0 && html`<${Rows} label="Captured requests" head=${['When', 'Request', 'Model', 'Key', 'Status', 'Took', 'Content']} keys=${newest.map((one) => one.id + one.at)} rows=${newest.map((one) => [html`<${Age} at=${one.at} />`,
        html`<code>${one.id}</code>`, one.model, one.key || '–', one.status, seconds(one.duration_s), html`<${Captured} id=${one.id} />`])} />`}`;
}

const shownMessage = (message) => [message.line, ...message.headers.map(([name, value]) => `${name}: ${value}`), '', message.body].join('\n');

// One request, as the client and the engines saw it.
function Captured({ id }) {
  const [shown, setShown] = useState(null);
  const show = () => ask(`/admin/capture/${id}`).then((reply) => setShown(reply.exchanges[0]), (failure) => say(failure.message));
  const parts = shown && [['Request', shown.request], ...shown.attempts.flatMap((one) => [[`To ${one.replica}`, one.request], [`From ${one.replica}`, one.response]]), ['Response', shown.response]];
  return html`<button type="button" class="small" aria-label=${`View ${id}`} onClick=${show}>View</button>
    ${shown && html`<${Ask} title=${`Request ${id}`} label="Download" onClose=${() => setShown(null)}
      act=${async () => download(`request-${id}.json`, JSON.stringify(shown, null, 1), 'application/json')}>
      ${parts.map(([title, message]) => message && html`<h3>${title}</h3><pre tabindex="0" aria-label=${title}>${shownMessage(message)}</pre>`)}</${Ask}>`}`;
}

export function Support() {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState('');
  const make = async () => {
    setBusy(true);
    setError('');
    try {
      const answer = await fetch('/admin/report', { cache: 'no-store' });
      if (!answer.ok) throw new Error((await answer.json()).error.message);
      download(`berth-report-${new Date().toISOString().slice(0, 19).replace(/[-:]/g, '')}.tar.gz`, await answer.blob());
    } catch (failure) {
      setError(failure.message);
    }
    setBusy(false);
  };
  return html`<button type="button" class="small" disabled=${busy} onClick=${make}>Download a support report</button>
    <span class="muted" role="status">${busy && 'Collecting …'}</span><${Problem} text=${error} />`;
}
