// Operations: migrations with their gates, the models' revisions, and what else was changed and became of it.

import { Age, Ask, Problem, Rows, Text, html, useAsked, useState } from '../parts.js';
import { number } from '../format.js';
import { Confirm, TITLES } from '../actions.js';
import { ask } from '../store.js';

const PERIOD_MS = 2000;
const SHOWN_OPERATIONS = 20;
const MOVES = {
  pause: ['Pause'], resume: ['Resume'], promote: ['Promote', 'The new one serves all from now on.'],
  abort: ['Abort', 'The new one finishes its requests, and stops.'],
};

export function Changes() {
  const [found, error, load] = useAsked('/admin/operations', PERIOD_MS);
  const [revisions, noRevisions] = useAsked('/admin/revisions', 5 * PERIOD_MS);
  const operations = [...(found?.operations ?? [])].reverse();
  const moving = operations.filter((one) => one.migration && one.state === 'running');
  return html`<h2>Migrations</h2><${Problem} text=${error || noRevisions} />
    ${moving.map((one) => html`<${Moving} key=${one.id} one=${one} gates=${found.gates?.[one.id] ?? []} load=${load} />`)}
    ${!moving.length && html`<p class="muted">None is running.</p>`}
    <h2>Revisions</h2><${Revisions} models=${Object.entries(revisions?.models ?? {})} />
    <h2>Operations</h2>
    ${operations.length > 0 ? html`<${Rows} label="Operations" head=${['When', 'What', 'Who', 'Result']} rows=${operations.slice(0, SHOWN_OPERATIONS).map((one) => [html`<${Age} at=${one.created_at} />`,
      `${TITLES[one.action]} ${one.migration ? `${one.migration.stable} → ${one.migration.candidate}` : one.model}`, one.by,
      html`<span class=${one.state === 'failed' ? 'bad' : ''}>${one.state === 'failed' ? '▲ ' : ''}${one.state}</span> <span class="muted"><${Text} text=${one.reason} /></span>`])} />` : html`<p class="muted">None since the start.</p>`}`;
}

function Moving({ one, gates, load }) {
  const [asked, setAsked] = useState('');
  const [error, setError] = useState('');
  const { candidate, check, options, other, own, paused, phase, reason, revision, stable, step } = one.migration;
  const move = (kind) => ask('/admin/operations', { method: 'POST', body: { migration: one.id, kind } }).then(load);
  const canary = phase === 'canary';
  const share = canary ? options.steps[step] : ['trial', 'promoting', 'settling', 'retiring'].includes(phase) ? 100 : 0;
  const slow = ({ slow: count, timed }) => (timed ? `${number(count)} of ${number(timed)}` : '–');
  return html`<section class="pane below" aria-label=${`Migration of ${one.model}`}>
    <h3>${one.model}: ${stable} → ${candidate} <span class="muted">revision ${revision}</span></h3>
    <p><b>${phase.replace('_', ' ')}</b>${canary ? `, step ${step + 1} of ${options.steps.length}` : ''} · <progress max="100" value=${share} aria-label=${`Share of ${candidate}`}></progress> ${number(share, 1)} % of the conversations${paused && html` · <span class="busy">paused: ${paused}</span>`}</p>
    ${reason && html`<p class="bad">▲ <${Text} text=${reason} /></p>`}${check && html`<p class="muted">${check}</p>`}
    <${Rows} label=${`Requests during the migration of ${one.model}`} head=${['Engine', 'Requests', 'of them Berth’s own', 'Failed', 'Slow']}
      rows=${[[candidate, own], [stable, other]].map(([name, counts]) => [name, number(counts.attempts), number(counts.probes), number(counts.failures), slow(counts)])} />
    <ul class="plain below">${gates.map((gate) => html`<li key=${gate.name}><span class=${gate.passed ? 'good' : 'bad'}>${gate.passed ? '● passed' : '▲ failed'}</span> ${gate.name}: ${gate.numbers}</li>`)}</ul>
    <${Problem} text=${error} />
    <div class="row below">${Object.entries(MOVES).map(([kind, [title, loses]]) => (kind === (paused ? 'pause' : 'resume') ? null : html`<button type="button" key=${kind}
      onClick=${() => (loses ? setAsked(kind) : move(kind).catch((failure) => setError(failure.message)))}>${title}</button>`))}</div>
    ${asked && html`<${Ask} title=${`${MOVES[asked][0]} the migration of ${one.model}`} label=${MOVES[asked][0]} act=${() => move(asked)} onClose=${() => setAsked('')}><p>${MOVES[asked][1]}</p></${Ask}>`}</section>`;
}

function Revisions({ models }) {
  const [asked, setAsked] = useState(null);
  const row = (model, one) => [`${model} ${one.number}`, html`<${Age} at=${one.at} />`, one.by, one.engines || 'chosen by Berth',
    html`${one.serves ? html`<span class="good">● current</span>` : one.state} <span class="muted">${one.reason}</span>`,
    !one.serves && one.state === 'promoted' && html`<button type="button" class="small" aria-label=${`Roll ${model} back to ${one.number}`} onClick=${() => setAsked([model, one.number])}>Roll back</button>`];
  return html`<${Rows} label="Revisions" head=${['Revision', 'When', 'By', 'Engines', 'State', 'Actions']} rows=${models.flatMap(([model, kept]) => kept.map((one) => row(model, one)))} />
    ${asked && html`<${Confirm} action="migrate" target=${asked[0]} revision=${asked[1]} onClose=${() => setAsked(null)} />`}`;
}
