import { html } from '../parts.js';
export const Connect = () => html`<h1>Connect</h1>`;
