// What the page knows, and where it comes from: one stream of events for all tabs of this browser, else polls.
//
// A browser opens six connections to a server over HTTP/1.1, so that a stream for each tab would block the seventh. The
// tab that became visible last holds the only one, and hands its events to the others over a BroadcastChannel. Where
// there are no events, that tab polls. When it is closed or hidden, another one notices the silence and takes over.

const POLL_MS = 5000;
const SILENT_MS = 3500; // after this long without the leader, a tab takes over
const RETRY_MS = 30000; // until a stream that failed is tried again
const HISTORY = 90;
const KEPT = 500; // requests

export const store = {
  session: null, // {role, open, changes}
  status: null,
  traffic: null,
  rates: [], // tokens per second, the newest last
  requests: null, // that are over, the newest first; null: no events
  running: [],
  skipped: 0,
  operations: {}, // by id
  at: 0, // when the last data came
  link: 'connecting', // or 'live', 'polling', 'lost'
  error: '',
  notice: '', // for the status line
  noticeAt: 0,
};

const listeners = new Set();
let due = 0;

export const watch = (listener) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

export const changed = () => {
  if (due) return;
  due = setTimeout(() => { due = 0; listeners.forEach((listener) => listener()); }, 16);
};

export const say = (text) => { store.notice = text; store.noticeAt = Date.now(); changed(); };

// A request to Berth. Throws an Error with the server's own message, `status` and `code`.
export async function ask(path, { method = 'GET', body, headers, signal } = {}) {
  const sent = { method, signal, cache: 'no-store', headers: { ...headers } };
  if (body !== undefined) {
    sent.body = JSON.stringify(body);
    sent.headers['content-type'] = 'application/json';
  }
  const answer = await fetch(path, sent);
  const text = await answer.text();
  let document = null;
  try { document = JSON.parse(text); } catch { /* not JSON: the text is the message */ }
  if (answer.ok) return document;
  throw failure(answer.status, document, text);
}

export function failure(status, document, text) {
  const detail = document?.error ?? document;
  const message = typeof detail === 'string' ? detail : detail?.message ?? text.slice(0, 500);
  return Object.assign(new Error(message || `HTTP ${status}`), { status, code: detail?.code });
}

// --- events

export const idOf = (request) => `${request.request} ${request.start}`;

export function take(event, data) {
  store.at = Date.now();
  if (event === 'state') { store.status = data; statusAt = store.at; }
  if (event === 'traffic') {
    store.traffic = data;
    const rate = Object.values(data.models ?? {}).reduce((sum, one) => sum + (one.tokens_out_s ?? 0), 0);
    store.rates = [...store.rates, rate].slice(-HISTORY);
  }
  if (event === 'requests') {
    const known = new Set((store.requests ?? []).map(idOf)); // a new stream begins with the last requests
    const fresh = data.requests.filter((one) => !known.has(idOf(one)));
    store.requests = [...fresh.reverse(), ...(store.requests ?? [])].slice(0, KEPT);
    store.running = data.running;
    store.skipped += data.skipped;
  }
  if (event === 'operation') store.operations = { ...store.operations, [data.id]: data };
  changed();
}

// --- one stream for all tabs

const me = Math.random().toString(36).slice(2);
const channel = 'BroadcastChannel' in window ? new BroadcastChannel('berth') : null;
let source = null;
let leading = false;
let heard = 0;
let retryAt = 0;
let polledAt = 0;
let statusAt = 0;

const share = (kind, fields = {}) => channel?.postMessage({ kind, me, ...fields });

function lead() {
  if (leading || document.hidden) return;
  leading = true;
  share('claim');
  connect();
}

function follow() {
  leading = false;
  source?.close();
  source = null;
}

function connect() {
  source?.close();
  source = null;
  if (!('EventSource' in window) || Date.now() < retryAt) return poll();
  const stream = source = new EventSource('/events?requests=1');
  for (const event of ['state', 'traffic', 'requests', 'operation']) {
    stream.addEventListener(event, ({ data }) => {
      const document = JSON.parse(data);
      store.link = 'live';
      store.error = '';
      take(event, document);
      share('event', { event, data: document, link: 'live' });
    });
  }
  stream.onerror = () => {
    if (stream !== source) return;
    if (stream.readyState !== EventSource.CLOSED) return void poll();
    source = null; // there are no events here, or not for this session
    retryAt = Date.now() + RETRY_MS;
    poll();
  };
}

export async function poll() {
  const began = polledAt = Date.now();
  try {
    const data = await ask('/status');
    if (statusAt > began) return; // an event has come meanwhile, and may be newer
    store.link = source?.readyState === 1 ? 'live' : 'polling';
    store.error = '';
    take('state', data);
    share('event', { event: 'state', data, link: store.link });
  } catch (error) {
    store.link = 'lost';
    store.error = error.message;
    if (error.status === 401) await renew();
    share('lost', { error: error.message });
    changed();
  }
}

export async function renew() {
  store.session = await ask('/ui/session').catch(() => store.session);
  changed();
}

export const mayRead = () => store.session?.open || store.session?.role;
export const mayChange = () => store.session?.role === 'admin';

export async function signIn(key) {
  store.session = await ask('/ui/login', { method: 'POST', body: { key } });
  retryAt = 0;
  share('session');
  begin();
}

export async function signOut() {
  store.session = await ask('/ui/logout', { method: 'POST' });
  if (!mayRead()) { store.status = null; store.traffic = null; store.requests = null; follow(); }
  share('session');
  changed();
}

if (channel) {
  channel.onmessage = ({ data }) => {
    if (data.kind === 'session') return void renew().then(begin);
    heard = Date.now();
    if (data.kind === 'claim' && leading) follow();
    if (data.kind === 'event') { store.link = data.link; store.error = ''; take(data.event, data.data); }
    if (data.kind === 'lost') { store.link = 'lost'; store.error = data.error; changed(); }
    if (data.kind === 'bye') heard = Date.now() - SILENT_MS + 200 + Math.random() * 800;
  };
}

function begin() {
  if (mayRead()) lead();
  changed();
}

function leave() {
  if (!leading) return;
  follow();
  share('bye');
}

setInterval(() => {
  if (leading) {
    share('alive');
    const silent = Date.now() - Math.max(store.at, polledAt) > POLL_MS;
    if (!source && Date.now() >= retryAt && mayRead()) connect();
    else if (silent && mayRead()) poll();
  } else if (mayRead() && Date.now() - heard > SILENT_MS) lead();
  changed(); // ages grow
}, 1000);

addEventListener('pagehide', leave);
addEventListener('pageshow', ({ persisted }) => { if (persisted) begin(); });
document.addEventListener('visibilitychange', () => (document.hidden ? leave() : begin()));

export const start = () => renew().then(begin);
