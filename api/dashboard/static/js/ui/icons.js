/** Line icons, 16 units wide, drawn with the text's colour. */
import { html } from '../html.js';

/** @type {Record<string, string>} */
const PATHS = {
  left: 'M10 3 5 8l5 5',
  right: 'm6 3 5 5-5 5',
  down: 'm4 6 4 4 4-4',
  close: 'm4 4 8 8M12 4l-8 8',
  download: 'M8 2.5v8M4.5 7.5 8 11l3.5-3.5M3 13.5h10',
  pause: 'M5.5 3.5v9M10.5 3.5v9',
  play: 'M5 3.2v9.6L12.5 8z',
  check: 'm3.5 8.5 3 3 6-7',
  copy: 'M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z',
  table: 'M2.5 3.5h11v9h-11zM2.5 7h11M6.5 7v5.5',
  chart: 'M2.5 12.5 6 8l3 2.5 4.5-6',
  calendar: 'M2.5 4h11v9.5h-11zM2.5 7h11M5.5 2v3M10.5 2v3',
  leave: 'M6.5 2.5h-4v11h4M10 5l3 3-3 3M13 8H6',
};

/** @param {{name: string}} props */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}
