// The frame of the page: sign-in, navigation, keys, and the line that announces what changed.

import { redraw, render } from './dom.js';
import { Dialog, Problem, html, useEffect, useState, word } from './parts.js';
import { duration } from './format.js';
import { mayChange, mayRead, say, signIn, signOut, start, store, watch } from './store.js';
import { Overview } from './views/overview.js';
import { Playground } from './views/playground.js';
import { Connect } from './views/connect.js';
import { Requests } from './views/requests.js';
import { Logs } from './views/logs.js';
import { System } from './views/system.js';
import { Usage } from './views/usage.js';

const VIEWS = {
  overview: ['Overview', Overview], playground: ['Playground', Playground], connect: ['Connect', Connect],
  requests: ['Requests', Requests], logs: ['Logs', Logs], system: ['System', System], usage: ['Usage', Usage],
};
const here = () => location.hash.replace(/^#\/?/, '').split('?')[0];
const views = () => Object.entries(VIEWS).filter(([id]) => id !== 'logs' || mayChange() || store.session.open);
const shown = () => (here() in VIEWS ? here() : 'overview');

function App() {
  const [wanted, setView] = useState(shown());
  const [dialog, setDialog] = useState('');
  useEffect(() => watch(redraw), []);
  useEffect(() => {
    const moved = () => { setView(shown()); scrollTo(0, 0); };
    addEventListener('hashchange', moved);
    return () => removeEventListener('hashchange', moved);
  }, []);
  useEffect(() => keys(setDialog), []);
  useEffect(announce);
  const open = mayRead();
  const view = open && !views().some(([id]) => id === wanted) ? 'overview' : wanted;
  const attention = store.status?.notices?.length ?? 0;
  document.title = `${attention ? `(${attention}) ` : ''}${VIEWS[view][0]} – Berth`;
  const View = VIEWS[view][1];
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById('main').focus(); }}>Skip to content</a>
    <header>
      <strong title=${store.status?.version}>Berth</strong> <${Link} />
      <nav aria-label="Views">${open && views().map(([id, [title]]) => html`<a href="#/${id}" aria-current=${id === view ? 'page' : null}>${title}</a>`)}</nav>
      <${Account} onSignIn=${() => setDialog('login')} />
    </header>
    <main id="main" tabindex="-1" class=${stale() ? 'stale' : ''}>
      ${!store.session ? html`<p role="status">${store.error || 'Connecting …'}</p>`
        : !open ? html`<section class="login"><h1>Sign in</h1><${Login} /></section>`
          : html`<${View} />`}
    </main>
    <p class="announce" role="status">${store.notice}</p>
    ${dialog === 'login' && html`<${Dialog} title="Sign in" onClose=${() => setDialog('')}><${Login} onDone=${() => setDialog('')} /></${Dialog}>`}
    ${dialog === 'help' && html`<${Dialog} title="Keys" onClose=${() => setDialog('')}><${Help} /></${Dialog}>`}`;
}

const stale = () => store.at && Date.now() - store.at > 8000;

function Link() {
  const silent = stale() ? `no data for ${duration((Date.now() - store.at) / 1000)}` : '';
  const text = { live: '● live', polling: '● every 5 s', lost: '▲ no connection', connecting: '○ connecting' }[store.link];
  const bad = silent || store.link === 'lost';
  return html`<span class="link ${bad ? 'bad' : store.link === 'live' ? 'good' : ''}" title=${store.error}>${silent ? `▲ ${silent}` : text}</span>`;
}

function Account({ onSignIn }) {
  const { session } = store;
  if (!session) return null;
  if (session.role) {
    return html`<span class="account">${session.role === 'admin' ? 'admin' : 'reader'} <button type="button" class="small" onClick=${() => signOut().catch((error) => say(error.message))}>Sign out</button></span>`;
  }
  return session.open && session.changes ? html`<span class="account"><button type="button" class="small" onClick=${onSignIn}>Sign in to change</button></span>` : null;
}

function Login({ onDone }) {
  const [key, setKey] = useState('');
  const [error, setError] = useState('');
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await signIn(new FormData(event.target).get('key')); // a password manager may have filled it in
      setKey('');
      onDone?.();
    } catch (failure) {
      setError(failure.message);
    }
    setBusy(false);
  };
  return html`<form onSubmit=${submit}>
    <input hidden autocomplete="username" value="berth" />
    <label>API key, or the admin key to change what runs
      <input type="password" name="key" autocomplete="current-password" required value=${key} onInput=${(event) => setKey(event.target.value)} /></label>
    <${Problem} text=${error} />
    <button class="main" disabled=${busy}>Sign in</button></form>`;
}

const Help = () => html`<table><tbody>
  ${Object.entries(VIEWS).map(([id, [title]]) => html`<tr><th scope="row"><kbd>g</kbd> <kbd>${id[0]}</kbd></th><td>${title}</td></tr>`)}
  <tr><th scope="row"><kbd>/</kbd></th><td>Filter of this view</td></tr>
  <tr><th scope="row"><kbd>?</kbd></th><td>This list</td></tr></tbody></table>`;

function keys(setDialog) {
  let before = '';
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, textarea, select, dialog')) return;
    const id = before === 'g' && Object.keys(VIEWS).find((name) => name[0] === event.key);
    before = event.key;
    if (id) location.hash = `#/${id}`;
    else if (event.key === '?') setDialog('help');
    else if (event.key === '/') {
      const field = document.querySelector('[data-filter]');
      if (field) { event.preventDefault(); field.focus(); }
    }
  };
  addEventListener('keydown', pressed);
  return () => removeEventListener('keydown', pressed);
}

let known = null;

// Changes of a replica's status, for who does not see them: a line stays for 5 s at least.
function announce() {
  if (!store.status || Date.now() - store.noticeAt < 5000) return;
  const now = new Map(store.status.models.flatMap((model) => model.replicas.map((one) => [one.name, one.status])));
  const moved = known ? [...now].filter(([name, status]) => known.get(name) !== status) : [];
  known = now;
  if (moved.length) say(moved.map(([name, status]) => `${name}: ${word(status)}`).join(', '));
}

render(html`<${App} />`, document.getElementById('app'));
start();
