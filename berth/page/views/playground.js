import { html } from '../parts.js';
export const Playground = () => html`<h1>Playground</h1>`;
