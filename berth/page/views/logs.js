// The log of a replica as it grows. The stream is open while the log is seen, and closed with it.

import { Choice, Problem, html, redraw, useEffect, useRef, useState } from '../parts.js';
import { store } from '../store.js';
import { plural } from '../format.js';

const MOST_LINES = 5000;
const LEVELS = { '': 'all lines', 'warn|error|critical|fatal|exception|traceback': 'warnings and errors', 'error|critical|fatal|exception|traceback': 'errors' };
let look = { filter: '', level: '', wrap: true };

export function Logs() {
  const [lines, setLines] = useState([]);
  const [skipped, setSkipped] = useState(0);
  const [follow, setFollow] = useState(true);
  const [problem, setProblem] = useState('');
  const own = useRef();
  const set = (fields) => { look = { ...look, ...fields }; redraw(); };
  const names = (store.status?.models ?? []).flatMap((model) => model.replicas).filter((one) => !one.attached).map((one) => one.name);
  const asked = decodeURIComponent(location.hash.split('?')[1] ?? '');
  const replica = names.includes(asked) ? asked : names[0] ?? '';

  useEffect(() => {
    if (!replica || !('EventSource' in window)) return undefined;
    let source = null;
    const open = () => {
      setLines([]);
      setSkipped(0);
      source = new EventSource(`/events?logs=${encodeURIComponent(replica)}`);
      source.addEventListener('log', ({ data }) => {
        const event = JSON.parse(data);
        setProblem('');
        setSkipped((count) => count + (event.skipped ?? 0));
        setLines((before) => [...before, ...event.lines].slice(-MOST_LINES));
      });
      source.onerror = () => { if (source?.readyState === EventSource.CLOSED) setProblem('This Berth sends no log now: berth logs shows it.'); else setLines([]); };
    };
    const close = () => { source?.close(); source = null; };
    const seen = () => { if (document.hidden) close(); else if (!source) open(); };
    seen();
    document.addEventListener('visibilitychange', seen);
    return () => { document.removeEventListener('visibilitychange', seen); close(); };
  }, [replica]);
  useEffect(() => { if (follow && own.current) own.current.scrollTop = own.current.scrollHeight; }, [lines, follow, look.filter, look.level]);

  let pattern = null;
  let wrong = '';
  try { pattern = new RegExp(look.filter, 'i'); } catch (error) { wrong = error.message; }
  const level = new RegExp(look.level, 'i');
  const shown = lines.filter((line) => (!pattern || pattern.test(line)) && level.test(line));
  return html`<h1>Logs</h1>
    <div class="row">
      <${Choice} label="Replica" value=${replica} options=${names.map((name) => [name, name])} onChange=${(name) => { location.hash = `#/logs?${encodeURIComponent(name)}`; redraw(); }} />
      <${Choice} label="Level" value=${look.level} options=${Object.entries(LEVELS)} onChange=${(found) => set({ level: found })} />
      <label>Filter <input type="search" data-filter placeholder="a regular expression" value=${look.filter} aria-invalid=${Boolean(wrong)} onInput=${(event) => set({ filter: event.target.value })} /></label>
      <label class="check"><input type="checkbox" checked=${follow} onChange=${(event) => setFollow(event.target.checked)} /> follow</label>
      <label class="check"><input type="checkbox" checked=${look.wrap} onChange=${(event) => set({ wrap: event.target.checked })} /> wrap lines</label></div>
    <${Problem} text=${wrong || problem} />
    <pre class="log ${look.wrap ? '' : 'nowrap'}" tabindex="0" role="log" aria-live="off" aria-label=${`Log of ${replica}`} ref=${own}>${shown.join('\n')}</pre>
    <p class="muted">${plural(shown.length, 'line')}${shown.length < lines.length ? ` of ${lines.length}` : ''}${skipped ? `, ${plural(skipped, 'line')} skipped: they came too fast` : ''}</p>`;
}
