/** One table of a dimension's values; a row is a filter for everything. */
import { announce } from '../announce.js';
import { ask } from '../api.js';
import { csv, download } from '../csv.js';
import { view } from '../data.js';
import { cell, dimensionLabel, figure, METRICS, share, valueLabel } from '../format.js';
import { html } from '../html.js';
import { dimensionOf, ROWS, ROWS_CSV, tableQuery, TABLES } from '../queries.js';
import { filterFor, go, hasFilter, route, toggleFilter } from '../route.js';
import { resolve } from '../span.js';
import { Icon } from './icons.js';

/** @typedef {import('../types.js').TableName} TableName */
/** @typedef {import('../types.js').MetricName} MetricName */

const METRIC_NAMES = /** @type {MetricName[]} */ (Object.keys(METRICS));

/** @param {{table: TableName}} props */
export function Breakdown({ table }) {
  const { answers, stale } = view.value;
  const r = route.value;
  const { title, dimensions } = TABLES[table];
  const answer = answers[table];
  const more = r.more.includes(table);
  return html`<section class="card table-card" aria-label=${title} aria-busy=${stale} data-table=${table}>
    <div class="card-head">
      <h2>${title}</h2>
      ${dimensions.length > 1 && html`<div class="segments" role="group" aria-label=${`${title} by`}>
        ${dimensions.map((dimension) => html`<button key=${dimension} type="button" aria-pressed=${dimension === dimensionOf(r, table)} onClick=${() => pickDimension(table, dimension)}>${dimension === 'utm_source' ? 'Campaign' : dimensionLabel(dimension)}</button>`)}
      </div>`}
      <button class="button quiet square" type="button" title="Download as CSV" onClick=${() => save(table)}><${Icon} name="download" /><span class="sr">Download ${title} as CSV</span></button>
    </div>
    ${answer?.error ? html`<p class="trouble">${answer.error.detail ?? answer.error.title}</p>` : answer ? html`<${Rows} table=${table} />` : html`<${RowSkeletons} />`}
    ${answer && !answer.error && (answer.total_rows ?? 0) > ROWS && html`<button class="button quiet more" type="button" aria-expanded=${more} onClick=${() => go({ more: more ? r.more.filter((name) => name !== table) : [...r.more, table] })}>
      ${more ? 'Show fewer' : `Show all ${answer.total_rows}`}
    </button>`}
  </section>`;
}

/** @param {TableName} table @param {string} dimension */
function pickDimension(table, dimension) {
  const tabs = { ...route.value.tabs, [table]: dimension };
  if (dimension === TABLES[table].dimensions[0]) delete tabs[table];
  go({ tabs });
}

/** @param {TableName} table */
async function save(table) {
  const r = route.value;
  const [answer] = await ask([tableQuery(r, resolve(r, Date.now()), table, ROWS_CSV)]);
  if (answer.error) announce(`The download failed: ${answer.error.detail ?? answer.error.title}`);
  else download(`headrace-${table}.csv`, csv(answer));
}

/** @param {{table: TableName}} props */
function Rows({ table }) {
  const { answers, route: shownRoute } = view.value;
  // The rows on the page may still be those of the last question.
  const r = shownRoute ?? route.value;
  const answer = answers[table];
  const dimension = answer.columns[0].name;
  const { metric } = r;
  const place = METRIC_NAMES.indexOf(metric) + 1;
  const total = Number(answers.totals?.rows?.[0]?.[place - 1] ?? 0);
  const largest = Math.max(...answer.rows.map((row) => Number(row[place])), 0);
  const more = r.more.includes(table);
  if (!answer.rows.length) return html`<p class="nothing">Nothing in this period</p>`;
  const body = html`<table class="rows">
    <thead><tr><th scope="col">${dimensionLabel(dimension)}</th><th scope="col">${METRICS[metric].label}</th><th scope="col"><abbr title="Share of all ${METRICS[metric].label.toLowerCase()}">%</abbr></th></tr></thead>
    <tbody onKeyDown=${walk}>${answer.rows.map((row, n) => html`<${Row} key=${row[0] ?? ''} dimension=${dimension} value=${row[0]} amount=${Number(row[place])} total=${total} largest=${largest} metric=${metric} first=${n === 0} />`)}</tbody>
  </table>`;
  return more ? html`<div class="rows-scroll" tabindex="0" role="region" aria-label=${`All ${TABLES[table].title.toLowerCase()}`}>${body}</div>` : body;
}

/** @param {{dimension: string, value: string | null, amount: number, total: number, largest: number, metric: MetricName, first: boolean}} props */
function Row({ dimension, value, amount, total, largest, metric, first }) {
  const label = valueLabel(dimension, value);
  const filter = filterFor(dimension, value);
  const on = hasFilter(filter);
  // A sliver would look like a stray line, and says no more than no bar.
  const percent = largest > 0 ? (amount / largest) * 100 : 0;
  const width = percent >= 0.8 ? percent : 0;
  const choose = () => {
    toggleFilter(filter);
    announce(on ? `Filter on ${label} removed` : `Filtered by ${dimensionLabel(dimension)}: ${label}`);
  };
  const name = html`<svg class="bar" width="100%" height="100%" aria-hidden="true"><rect width=${`${width}%`} height="100%" rx="4" /></svg><span class="name" title=${label}>${label}</span>`;
  return html`<tr data-value=${value ?? ''} data-on=${on}>
    <th scope="row">${value === '(other)'
      ? html`<span class="row-button">${name}</span>`
      : html`<button class="row-button" type="button" aria-pressed=${on} tabindex=${first ? 0 : -1} onClick=${choose}>${name}</button>`}</th>
    <td title=${figure(amount, metric)} data-value=${amount}>${cell(amount, metric)}</td>
    <td class="share">${metric === 'users' || total > 0 ? share(amount, total) : ''}</td>
  </tr>`;
}

/** Up and down walk the rows, so that Tab passes a table in one step. @param {KeyboardEvent} event */
function walk(event) {
  const body = /** @type {HTMLElement} */ (event.currentTarget);
  const buttons = /** @type {HTMLButtonElement[]} */ ([...body.querySelectorAll('button')]);
  const at = buttons.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
  const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (next === undefined || at < 0) return;
  event.preventDefault();
  buttons[Math.min(Math.max(next, 0), buttons.length - 1)].focus();
}

function RowSkeletons() {
  const lengths = ['w9', 'w7', 'w8', 'w5', 'w6', 'w4', 'w5', 'w3'];
  return html`<div class="row-skeletons">${lengths.map((length) => html`<div class=${`skeleton row-skeleton ${length}`}></div>`)}</div>`;
}
