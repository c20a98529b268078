// What to write into a client to use this Berth, and a request through the same API from here.

import { Choice, Code, Text, Waiting, html, redraw, useEffect, useState } from '../parts.js';
import { ask, store } from '../store.js';
import { number } from '../format.js';

let clients = null; // of connect.json, which `berth connect` prints from too
let form = { client: '', model: '', url: location.origin, key: '' };

const HELLO = [{ role: 'user', content: 'Say hello in one sentence.' }];
const TESTS = {
  openai: (model) => ['/v1/chat/completions', { model, messages: HELLO, max_tokens: 64 }, (reply) => reply.choices[0].message.content || reply.choices[0].message.reasoning_content],
  anthropic: (model) => ['/v1/messages', { model, messages: HELLO, max_tokens: 64 }, (reply) => reply.content.map((block) => block.text ?? block.thinking ?? '').join('')],
  responses: (model) => ['/v1/responses', { model, input: HELLO[0].content, max_output_tokens: 64, store: false }, (reply) => reply.output.flatMap((item) => item.content ?? []).map((part) => part.text ?? '').join('')],
  ollama: (model) => ['/api/chat', { model, messages: HELLO, stream: false, options: { num_predict: 64 } }, (reply) => reply.message.content || reply.message.thinking],
  embeddings: (model) => ['/v1/embeddings', { model, input: ['Hello'] }, (reply) => `${number(reply.data[0].embedding.length)} dimensions`],
  rerank: (model) => ['/v1/rerank', { model, query: 'Where do ships stay?', documents: ['In a port.', 'In a tree.'] }, (reply) => reply.results.map((one) => `${one.index}: ${one.relevance_score.toFixed(3)}`).join(', ')],
};

export const filledIn = (text, values) => text.replace(/\{(url|key|model|context)\}/g, (_, name) => values[name]);

export function Connect() {
  const [error, setError] = useState('');
  const set = (fields) => { form = { ...form, ...fields }; redraw(); };
  useEffect(() => {
    if (!clients) ask('/ui/connect.json').then((found) => { clients = found; set({}); }, (failure) => setError(failure.message));
  }, []);
  const models = store.status?.models ?? [];
  if (!clients || !models.length) return html`<${Waiting} title="Connect" error=${error} />`;
  const model = models.find((one) => one.name === form.model) ?? models.find((one) => one.ready) ?? models[0];
  const fitting = clients.filter((one) => one.task === model.task);
  const client = fitting.find((one) => one.id === form.client) ?? fitting[0];
  const values = {
    url: form.url.replace(/\/+$/, ''), model: model.name, context: model.context ?? 32768,
    key: form.key || (store.session.open ? 'none' : 'YOUR_KEY'),
  };
  return html`<h1>Connect</h1>
    <div class="row">
      <${Choice} label="Model" value=${model.name} options=${models.map((one) => [one.name, one.name])} onChange=${(name) => set({ model: name })} />
      <label>Address <input type="url" value=${form.url} onInput=${(event) => set({ url: event.target.value })} /></label>
      <label>Key <input type="password" autocomplete="off" placeholder=${store.session.open ? 'none is needed' : 'to fill it in here; it stays in this tab'} value=${form.key} onInput=${(event) => set({ key: event.target.value })} /></label></div>
    ${!client ? html`<p class="muted">There is no example for a model of the task ${model.task}.</p>` : html`
      <div class="tabs" role="group" aria-label="Clients">${fitting.map((one) => html`<button type="button" key=${one.id} aria-pressed=${one === client} onClick=${() => set({ client: one.id })}>${one.title}</button>`)}</div>
      ${client.where && html`<p><${Text} text=${filledIn(client.where, values)} /></p>`}
      <${Code} label=${`${client.title}: ${client.language}`} text=${filledIn(client.lines.join('\n'), values)} />
      <p class="muted">In a shell on the server: <code>berth connect ${client.id} --model ${model.name}</code></p>
      <${Test} key=${`${client.api} ${model.name}`} client=${client} model=${model.name} />`}`;
}

function Test({ client, model }) {
  const [result, setResult] = useState(null);
  const [path, body, read] = TESTS[client.api](model);
  const test = async () => {
    setResult({ busy: true });
    const began = performance.now();
    try {
      const reply = await ask(path, { method: 'POST', body, headers: form.key ? { authorization: `Bearer ${form.key}` } : {} });
      setResult({ text: read(reply), took: (performance.now() - began) / 1000 });
    } catch (failure) {
      setResult({ error: failure.message, status: failure.status });
    }
  };
  return html`<div class="row"><button type="button" class="main" disabled=${result?.busy} onClick=${test}>Test from here</button>
      <span class="muted">A real request to <code>POST ${path}</code></span></div>
    <div role="status">${result?.busy && html`<p>Waiting for the response …</p>`}
      ${result?.error && html`<p class="bad">▲ ${result.status ? `${result.status}: ` : ''}${result.error}</p>`}
      ${result?.text !== undefined && html`<p><span class="good">●</span> ${result.text} <span class="muted">(${number(result.took, 2)} s)</span></p>`}</div>`;
}
