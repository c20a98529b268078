// What boot has decided and why, versions, and the host.

import { Code, Facts, Rows, Text, Waiting, html, useAsked } from '../parts.js';
import { ago, date, number, size } from '../format.js';
import { Buttons } from '../actions.js';
import { mayChange, store } from '../store.js';
import { Changes } from './changes.js';
import { Benches, Capture, Support } from './tools.js';

export function System() {
  const [plan, error] = useAsked('/plan');
  const { status } = store;
  if (!plan || !status) return html`<${Waiting} title="System" error=${error} />`;
  const { control, run_directory: folder, driver } = status;
  const rows = [
    ['Version', status.version],
    ['Planned', html`<time title=${date(plan.created)}>${ago(plan.created)}</time>`],
    ['Listens on', `${plan.listen.url}, ${number(plan.listen.workers)} worker${plan.listen.workers === 1 ? '' : 's'}${plan.listen.tls ? ', TLS' : ''}`],
    ['Access', plan.open_access ? `without a key, ${plan.open_to === 'all' ? 'for everybody' : 'from private addresses'}` : 'with a key'],
    ['Control', control.reported ? `pid ${control.pid}, published ${control.age_s} s ago${control.stale ? ' (silent)' : ''}` : 'has published nothing yet'],
    ['Run directory', `${folder.path}${folder.free_bytes === null ? '' : `, ${size(folder.free_bytes)} free`}`],
    ['Driver', driver.state === 'ok' ? `${plan.inventory.driver_version || '?'}, CUDA ${plan.inventory.cuda_version || '?'}` : html`<${Text} text=${driver.reason} />`],
    ['Downloads', plan.offline ? 'off (BERTH_OFFLINE)' : 'allowed'],
  ];
  return html`<h1>System</h1>
    <${Facts} rows=${rows} />
    ${mayChange() && html`<div class="row below"><${Buttons} actions=${['reload']} target="" /><${Support} /></div><${Changes} /><${Benches} /><${Capture} />`}
    ${plan.inventory.gpus.length > 0 && html`<h2>GPUs found</h2><${Rows} label="GPUs found" head=${['GPU', 'Name', 'Memory', 'Compute capability', 'UUID']}
      rows=${plan.inventory.gpus.map((gpu) => [gpu.index, gpu.name, size(gpu.memory_total_bytes), gpu.compute_capability, gpu.uuid])} />`}
    <h2>Limits</h2>
    <${Facts} rows=${Object.entries(plan.limits).map(([name, value]) => [name.replace(/_(s|bytes)$/, '').replaceAll('_', ' '), name.endsWith('_bytes') ? size(value) : `${number(value, 1)}${name.endsWith('_s') ? ' s' : ''}`])} />
    <h2>Plan</h2>
    ${plan.models.map((model) => html`<section class="pane below" key=${model.name} aria-label=${`Plan of ${model.name}`}><h3>${model.name}</h3>
      <p class="muted">${model.source}${model.revision ? `@${model.revision}` : ''} · ${model.task}${model.context ? ` · ${number(model.context)} tokens` : ''} · load: ${model.load}${model.replicas.length > 1 ? ` · standby: ${model.standby}` : ''}</p>
      ${model.replicas.map((replica) => html`<${Planned} key=${replica.name} replica=${replica} />`)}</section>`)}
    ${plan.configuration.length > 0 && html`<h2>Configuration</h2><${Rows} label="Configuration" head=${['Variable', 'Value', 'From']}
      rows=${[...plan.configuration].sort((a, b) => (a.origin === 'default') - (b.origin === 'default')).map((one) => [one.name, html`<code>${one.value}</code>`, one.origin])} />`}
    <p class="muted"><code>berth doctor</code> checks the host.</p>`;
}

const FIGURES = { weights: 'weights_bytes', kv_cache: 'kv_bytes', overhead: 'overhead_bytes' };

function Planned({ replica }) {
  const { memory, origins } = replica;
  const figures = memory ? Object.entries(FIGURES).map(([name, field]) => [name.replace('_', ' '), size(memory[field]), origins[name]]) : [];
  for (const [name, origin] of Object.entries(origins)) if (!(name in FIGURES) || !memory) figures.push([name.replaceAll('_', ' '), '', origin]);
  return html`<h4>${replica.name} <span class="muted">${replica.engine}${replica.gpus.length ? ` on GPU ${replica.gpus.join(', ')}` : ''}</span></h4>
    ${replica.reason && html`<p><${Text} text=${replica.reason} /></p>`}
    ${(figures.length > 0 || replica.notes.length > 0) && html`<details><summary>Figures and their origins</summary>
      <${Facts} rows=${figures} />
      ${replica.notes.length > 0 && html`<ul>${replica.notes.map((note) => html`<li><${Text} text=${note} /></li>`)}</ul>`}</details>`}
    ${replica.command && html`<details><summary>Command</summary><${Code} label=${`Command of ${replica.name}`} text=${replica.command} /></details>`}`;
}
