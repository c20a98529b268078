// What needs attention, what happens now, models with their replicas, and GPUs.

import { Age, Bar, Spark, Status, Table, Text, Waiting, html } from '../parts.js';
import { duration, number, plural, seconds, size } from '../format.js';
import { Buttons, Running, actionsOf, replicaActions } from '../actions.js';
import { mayChange, store } from '../store.js';

const sum = (rows, field) => rows.reduce((total, row) => total + (row[field] ?? 0), 0);

export function Overview() {
  const { status } = store;
  if (!status) return html`<${Waiting} title="Overview" />`;
  return html`<h1 class="hidden">Overview</h1>
    <${Attention} status=${status} /><${Now} status=${status} /><${Models} status=${status} /><${Gpus} status=${status} />`;
}

const URGENT = new Set(['model_down', 'replica_failed', 'control_silent', 'gpu_gone', 'disk_low']);

function Attention({ status }) {
  const down = new Set(status.notices.filter((one) => one.kind === 'model_down').map((one) => one.replica));
  const notices = status.notices.filter((one) => !(one.kind.startsWith('replica_') && down.has(one.replica)));
  if (!notices.length) return html`<p class="muted">Nothing needs attention.</p><${Running} />`;
  const replicas = new Map(status.models.flatMap((model) => model.replicas.map((one) => [one.name, one])));
  return html`<section><h2>Needs attention</h2><ul class="notices">${notices.map((one) => {
    const lines = replicas.get(one.replica)?.last_lines ?? [];
    const urgent = URGENT.has(one.kind);
    return html`<li key=${`${one.kind} ${one.model} ${one.replica} ${one.text}`} class=${urgent ? 'urgent' : ''}>
      <span class="mark" aria-hidden="true">${urgent ? '▲' : '!'}</span>
      <div><${Text} text=${one.text} /> ${one.since ? html`<span class="muted"><${Age} at=${one.since} /></span>` : ''}
        ${one.help && html`<div class="muted"><code>${one.help}</code></div>`}
        ${lines.length > 0 && html`<details><summary>Last lines of the log of ${one.replica}</summary><pre tabindex="0">${lines.join('\n')}</pre></details>`}</div>
      ${one.replica && html`<span class="buttons"><a class="button small" href=${`#/logs?${one.replica}`}>Logs</a></span>`}</li>`;
  })}</ul><${Running} /></section>`;
}

function Now({ status }) {
  const traffic = Object.values(store.traffic?.models ?? {});
  const running = store.traffic ? sum(traffic, 'in_flight') : status.models.reduce((total, model) => total + sum(model.replicas, 'in_flight'), 0);
  const waiting = store.traffic ? sum(traffic, 'queue') : status.models.reduce((total, model) => total + model.queue.length, 0);
  const slowest = (field) => Math.max(...traffic.map((one) => one[field] ?? 0), 0) || null;
  return html`<section><h2>Now</h2><dl class="figures">
    ${store.traffic && html`<div><dt>tokens/s out</dt><dd>${number(sum(traffic, 'tokens_out_s'))} <${Spark} values=${store.rates} label="Tokens per second over the last 90 seconds" /></dd></div>
      <div><dt>requests/s</dt><dd>${number(sum(traffic, 'requests_s'), 1)}</dd></div>`}
    <div><dt>running</dt><dd>${number(running)}</dd></div>
    <div><dt>waiting</dt><dd>${number(waiting)}</dd></div>
    ${store.traffic && html`<div><dt>first token, median</dt><dd>${seconds(slowest('ttft_p50_s'))}</dd></div>
      <div><dt>first token, p95</dt><dd>${seconds(slowest('ttft_p95_s'))}</dd></div>
      <div class=${sum(traffic, 'errors_s') > 0 ? 'bad' : ''}><dt>errors/s</dt><dd>${number(sum(traffic, 'errors_s'), 1)}</dd></div>`}</dl></section>`;
}

function Models({ status }) {
  const live = store.traffic?.models ?? {};
  const kv = Object.values(store.traffic?.replicas ?? {}).some((one) => one.kv !== null);
  return html`<section><h2>Models</h2><${Table} label="Models and their replicas" name="models" head=${['Name', 'State', 'Requests', ...(kv ? ['KV cache'] : []), ...(mayChange() ? ['Actions'] : [])]}>
    ${status.models.map((model) => {
      const running = sum(model.replicas, 'in_flight');
      const rate = live[model.name]?.tokens_out_s;
      return html`<tbody key=${model.name} role="rowgroup"><tr class="model" role="row"><th scope="rowgroup" role="rowheader">${model.name}${model.aliases.length > 0 && html` <span class="muted">${model.aliases.join(', ')}</span>`}</th>
        <td role="cell">${model.ready ? html`served by <b>${model.serving}</b>` : html`<span class="muted">not served</span>`}${model.pin && ' · pinned'}
          ${model.canary && html`<div class="busy">◐ ${model.canary.replica} gets ${number(model.canary.share * 100, 1)} %</div>`}
          ${model.adapters.length > 0 && html`<div class="muted">adapters: ${model.adapters.map((one) => one.name).join(', ')}</div>`}</td>
        <td role="cell">${number(running)} running${model.queue.length > 0 ? `, ${number(model.queue.length)} waiting` : ''}${rate ? ` · ${number(rate)} tok/s` : ''}</td>
        ${kv && html`<td role="cell"></td>`}${mayChange() && html`<td role="cell"><${Buttons} actions=${actionsOf(model)} target=${model.name} running=${running} most=${model.replicas.length}
          others=${model.replicas.map((one) => one.name).filter((name) => name !== model.serving)} /></td>`}</tr>
        ${model.replicas.map((replica) => html`<${Replica} key=${replica.name} replica=${replica} kv=${kv} several=${model.replicas.length > 1} />`)}</tbody>`;
    })}</${Table}></section>`;
}

function Replica({ replica, kv, several }) {
  const live = store.traffic?.replicas?.[replica.name] ?? {};
  const { progress } = replica;
  const where = replica.attached ? 'attached' : replica.gpus.length ? `GPU ${replica.gpus.join(', ')}` : 'CPU';
  const left = replica.ready_at - Date.now() / 1000;
  const notes = [
    ...Object.entries(replica.kept_asleep).map(([gpu, bytes]) => replica.status === 'asleep' && `keeps ${size(bytes)} of GPU ${gpu}`),
    replica.cannot_sleep && `does not sleep: ${replica.cannot_sleep}`, replica.no_room || replica.memory_not_free,
    replica.status !== 'ready' && !replica.progress && replica.expected_s && `ready within about ${duration(replica.expected_s)}`,
    ...Object.entries(replica.adapter_errors).map(([name, error]) => `${name}: ${error}`),
  ];
  const wait = replica.next_start_at && Math.max(0, replica.next_start_at - Date.now() / 1000);
  return html`<tr class="replica" role="row"><th scope="row" role="rowheader">${replica.name} <span class="muted">${replica.engine === 'remote' ? replica.dialect : replica.engine} · ${where}</span></th>
    <td role="cell"><${Status} status=${replica.status} since=${replica.since} /> <span class="muted">for ${duration(Date.now() / 1000 - replica.since)}</span>
      ${!replica.reachable && html` <span class="status bad">▲ ejected by the router</span>`}
      ${progress && html`<div>${progress.phase} ${progress.percent !== null ? html`<progress max="100" value=${progress.percent} aria-label=${`${replica.name}: ${progress.phase}`}></progress> ${number(progress.percent)} %` : '…'}${progress.total_bytes ? ` of ${size(progress.total_bytes)}` : ''}</div>`}
      ${left > 0 && html`<div class="muted">about ${duration(left)} left${replica.expected_s === null ? ' of the download' : ''}</div>`}
      ${wait !== null && wait !== undefined && replica.status === 'backoff' ? html`<div class="muted">next start in ${seconds(wait)}, ${plural(replica.restarts, 'restart')} so far</div>` : ''}
      ${notes.map((text) => Boolean(text) && html`<div class="muted">${text}</div>`)}
      ${replica.ranks.map((one) => html`<div>rank ${one.rank} on ${one.box}: <${Status} status=${one.status || 'unknown'} /> <span class="muted">${one.reason}</span></div>`)}
      ${replica.reason && replica.status !== 'ready' && html`<div class="reason"><${Text} text=${replica.reason} /></div>`}</td>
    <td role="cell">${number(live.in_flight ?? replica.in_flight)}${replica.concurrency ? ` of ${number(replica.concurrency)}` : ''}${live.waiting ? `, ${live.waiting} wait in the engine` : ''}</td>
    ${kv && html`<td role="cell">${live.kv !== undefined && live.kv !== null ? html`<${Bar} value=${live.kv} label=${`KV cache of ${replica.name}`} />` : html`<span class="muted">–</span>`}</td>`}
    ${mayChange() && html`<td role="cell">${several ? html`<${Buttons} actions=${replicaActions(replica)} target=${replica.name} running=${replica.in_flight} />` : ''}</td>`}</tr>`;
}

// What holds the memory of a GPU, by plan and by what engines were seen to take.
const parts = (gpu, used) => {
  const rows = gpu.memory_by_engine.map(({ replica, weights, kv, rest }) => (replica
    ? `${replica}: ${[['weights', weights], ['KV cache', kv], ['graphs and rest', rest]].filter(([, bytes]) => bytes).map(([name, bytes]) => `${name} ${size(bytes)}`).join(', ')}`
    : `another model: ${size(weights + kv + rest)}`));
  if (gpu.memory_foreign_bytes) rows.push(`other programs: ${size(gpu.memory_foreign_bytes)}`);
  if (gpu.slowed) rows.push(`slowed by ${gpu.slowed}`);
  return [...rows, `free: ${size(gpu.memory_total_bytes - used)}`];
};

function Gpus({ status }) {
  if (!status.gpus.length) return html`<section><h2>GPUs</h2><p class="muted">No GPU: <${Text} text=${status.driver.reason} /></p></section>`;
  return html`<section><h2>GPUs</h2><${Table} label="GPUs" head=${['GPU', 'Memory', 'Busy', 'Power', 'Temperature']}><tbody>
    ${status.gpus.map((gpu, at) => {
      const live = store.traffic?.gpus[at] ?? { used: gpu.memory_used_bytes, watts: gpu.power_watts, celsius: gpu.temperature_celsius };
      const busy = gpu.utilization_percent ?? null;
      const figure = (value, unit) => html`<td>${value === null ? '–' : `${number(value)} ${unit}`}</td>`;
      return html`<tr key=${gpu.uuid}><th scope="row">${gpu.index} <span class="muted">${gpu.name}</span></th>
        <td><${Bar} value=${live.used} most=${gpu.memory_total_bytes} high="0.98" text=${`${size(live.used)} of ${size(gpu.memory_total_bytes)}`} label=${`Memory of GPU ${gpu.index}`} />
          ${parts(gpu, live.used).map((text) => html`<div class="muted">${text}</div>`)}</td>
        ${figure(live.busy ? live.busy * 100 : busy, '%')}${figure(live.watts, 'W')}${figure(live.celsius, '°C')}</tr>`;
    })}</tbody></${Table}></section>`;
}
