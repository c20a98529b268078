// A conversation with one model, or with two at the same time, and the request as a command. Nothing is kept.

import { Choice, Code, Problem, html, redraw, useEffect, useRef, useState } from '../parts.js';
import { number, seconds } from '../format.js';
import { failure, store } from '../store.js';

const EMPTY = { turns: [], busy: false };
const MOST_IMAGE = 4 << 20;

let talk = { system: '', temperature: '', most: '512', model: '', other: '', panes: [EMPTY, EMPTY] }; // while the tab lives

export const chatBody = (model, turns, { system, temperature, most }) => ({
  model,
  messages: [...(system ? [{ role: 'system', content: system }] : []), ...turns.map(({ role, content }) => ({ role, content }))],
  ...(temperature === '' ? {} : { temperature: Number(temperature) }),
  ...(most === '' ? {} : { max_tokens: Number(most) }),
  stream: true,
  stream_options: { include_usage: true },
});

// The events of a stream of OpenAI's chat API, one by one; throws the error that ends it.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ''; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data:') || line.includes('[DONE]')) continue;
      const event = JSON.parse(line.slice(5));
      if (event.error) throw failure(answer.status, event, line);
      yield event;
    }
  }
}

// Streams one answer; `show` gets it as it grows.
async function stream(body, signal, show) {
  const began = performance.now();
  const seen = { text: '', thoughts: '', tokens: 0, first: null, took: null, engine: '', replica: '', attempts: '' };
  const answer = await fetch('/v1/chat/completions', {
    method: 'POST', signal, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body),
  });
  if (!answer.ok) {
    const text = await answer.text();
    let document = null;
    try { document = JSON.parse(text); } catch { /* the text is the message */ }
    throw failure(answer.status, document, text);
  }
  for (const name of ['engine', 'replica', 'attempts']) seen[name] = answer.headers.get(`x-berth-${name}`) ?? '';
  for await (const { choices, usage } of events(answer)) {
    const delta = choices?.[0]?.delta ?? {};
    const thought = delta.reasoning_content ?? delta.reasoning ?? '';
    if (delta.content || thought) {
      seen.first ??= (performance.now() - began) / 1000;
      seen.text += delta.content ?? '';
      seen.thoughts += thought;
      seen.tokens += 1;
    }
    if (usage) seen.tokens = usage.completion_tokens;
    seen.took = (performance.now() - began) / 1000;
    show({ ...seen });
  }
  return seen;
}

export function Playground() {
  const [prompt, setPrompt] = useState('');
  const [image, setImage] = useState('');
  const stops = useRef([]);
  useEffect(() => () => stops.current.forEach((stop) => stop.abort()), []);
  const set = (fields) => { talk = { ...talk, ...fields }; redraw(); };
  const models = (store.status?.models ?? []).filter((model) => model.task === undefined || model.task === 'generate');
  const names = models.flatMap((model) => [model.name, ...model.adapters.map((one) => one.name)]);
  if (!names.length) return html`<h1>Playground</h1><p>${store.status ? 'No model here generates text.' : store.error || 'Waiting for data …'}</p>`;
  const ready = models.find((model) => model.ready)?.name;
  const chosen = [names.includes(talk.model) ? talk.model : ready ?? names[0], talk.other].filter(Boolean);
  const busy = talk.panes.some((pane) => pane.busy);

  const send = (text) => {
    set({ model: chosen[0] }); // it stays, also when another model becomes ready
    const content = image ? [{ type: 'text', text }, { type: 'image_url', image_url: { url: image } }] : text;
    stops.current = chosen.map((model, at) => {
      const stop = new AbortController();
      const turns = [...talk.panes[at].turns.filter((turn) => !turn.error), { role: 'user', content, shown: text }];
      const update = (turn, running) => set({ panes: talk.panes.map((pane, index) => (index === at ? { turns: [...turns, turn], busy: running } : pane)) });
      update({ role: 'assistant', content: '' }, true);
      let last = {};
      const as = (seen) => ({ role: 'assistant', content: seen.text ?? '', seen });
      stream(chatBody(model, turns, talk), stop.signal, (seen) => { last = seen; update(as(seen), true); })
        .then((seen) => update(as(seen), false), (error) => update({ ...as(last), error: stop.signal.aborted ? 'stopped' : error.message }, false));
      return stop;
    });
    setPrompt('');
    setImage('');
  };
  const paste = (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith('image/'));
    if (!file || file.size > MOST_IMAGE) return;
    event.preventDefault();
    const reader = new FileReader();
    reader.onload = () => setImage(reader.result);
    reader.readAsDataURL(file);
  };
  const submit = (event) => {
    event.preventDefault();
    const text = event.target.closest('form').querySelector('textarea').value; // what was typed last is not drawn yet
    if (!busy && text.trim()) send(text);
  };
  const enter = (event) => { if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) submit(event); };
  const turns = talk.panes[0].turns;
  const example = turns.length ? turns.slice(0, turns.findLastIndex((turn) => turn.role === 'user') + 1) : [{ role: 'user', content: prompt || 'Hello' }];

  return html`<h1>Playground</h1>
    <div class="row">
      <${Choice} label="Model" value=${chosen[0]} options=${names.map((name) => [name, name])} onChange=${(model) => set({ model })} />
      <${Choice} label="Compare with" value=${talk.other} options=${[['', 'nothing'], ...names.map((name) => [name, name])]} onChange=${(other) => set({ other })} />
      <label class="narrow">Temperature <input type="number" min="0" max="2" step="0.1" placeholder="default" value=${talk.temperature} onInput=${(event) => set({ temperature: event.target.value })} /></label>
      <label class="narrow">Most tokens <input type="number" min="1" value=${talk.most} onInput=${(event) => set({ most: event.target.value })} /></label>
    </div>
    <label class="below">System message <input value=${talk.system} onInput=${(event) => set({ system: event.target.value })} /></label>
    <div class="panes talk">${chosen.map((model, at) => html`<${Pane} key=${at} model=${model} pane=${talk.panes[at]} />`)}</div>
    <form onSubmit=${submit}>
      <label>Message <textarea rows="3" value=${prompt} data-filter onInput=${(event) => setPrompt(event.target.value)} onKeyDown=${enter} onPaste=${paste}
        placeholder="Enter sends, Shift+Enter begins a line; paste an image for models that see"></textarea></label>
      ${image && html`<p><img class="pasted" src=${image} alt="The image to send" /> <button type="button" class="small" onClick=${() => setImage('')}>Remove</button></p>`}
      <div class="row">
        ${busy ? html`<button type="button" onClick=${() => stops.current.forEach((stop) => stop.abort())}>Stop</button>` : html`<button class="main" disabled=${!prompt.trim()}>Send</button>`}
        <button type="button" disabled=${busy} onClick=${() => set({ panes: [EMPTY, EMPTY] })}>Clear</button></div></form>
    <details><summary>As curl</summary><${Code} label="The request as curl" text=${curl(chatBody(chosen[0], example, talk))} /></details>`;
}

const curl = (body) => `curl -N ${location.origin}/v1/chat/completions \\
  -H 'content-type: application/json' \\${store.session?.open ? '' : "\n  -H \"authorization: Bearer $OPENAI_API_KEY\" \\"}
  -d '${JSON.stringify(body).replaceAll("'", "'\\''").replace(/(data:[^"]{60})[^"]*/g, '$1…')}'`;

const Pane = ({ model, pane }) => html`<section class="pane" aria-label=${`Answers of ${model}`} aria-busy=${pane.busy}><h2>${model}</h2>
  ${!pane.turns.length && html`<p class="muted">No messages yet.</p>`}
  ${pane.turns.map((turn) => html`<${Turn} turn=${turn} />`)}</section>`;

function Turn({ turn }) {
  if (turn.role === 'user') return html`<div class="turn user">${turn.shown}</div>`;
  const { seen = {}, error } = turn;
  const rate = seen.took > seen.first ? (seen.tokens - 1) / (seen.took - seen.first) : null;
  return html`${seen.thoughts && html`<div class="turn thinks">${seen.thoughts}</div>`}
    ${turn.content.split('```').map((part, at) => (at % 2
      ? html`<${Code} label="Code of the answer" text=${part.replace(/^[\w+-]*\n/, '')} />`
      : part.trim() && html`<div class="turn">${part.trim()}</div>`))}
    <${Problem} text=${error} />
    ${seen.took ? html`<p class="muted">${seen.replica || seen.engine}${seen.attempts > 1 ? `, attempt ${seen.attempts}` : ''} · first token ${seconds(seen.first)} · ${number(seen.tokens)} tokens${rate ? ` · ${number(rate, 1)} tokens/s` : ''}</p>` : ''}`;
}
