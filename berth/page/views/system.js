import { html } from '../parts.js';
export const System = () => html`<h1>System</h1>`;
