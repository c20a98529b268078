import { html } from '../parts.js';
export const Logs = () => html`<h1>Logs</h1>`;
