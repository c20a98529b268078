import { html } from '../parts.js';
export const Requests = () => html`<h1>Requests</h1>`;
