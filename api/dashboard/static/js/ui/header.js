/** The top line: whose numbers, how fresh, of what time, compared with what; and the filters under it. */
import { useEffect, useState } from '../../vendor/preact-hooks.js';
import { announce } from '../announce.js';
import { freshness, view } from '../data.js';
import { behind, filterLabel, rangeName } from '../format.js';
import { html } from '../html.js';
import { canMoveLater, choosePeriod, clearFilters, move } from '../keys.js';
import { liveState } from '../live.js';
import { go, route, toggleFilter } from '../route.js';
import { leave, session } from '../session.js';
import { PERIODS, resolve } from '../span.js';
import { dayName, DAY_MS } from '../time.js';
import { Icon } from './icons.js';
import { Menu } from './menu.js';

/** @typedef {import('../types.js').Period} Period */
/** @typedef {import('../types.js').Compare} Compare */

/** @param {{empty: boolean}} props */
export function Header({ empty }) {
  return html`<header class="top">
    <div class="brand">
      <img src="/static/icon.svg" alt="" width="26" height="26" />
      <h1><span class="sr">Headrace dashboard of </span>${customerName()}</h1>
      <${Badge} />
    </div>
    <div class="controls">
      ${!empty && html`<${PeriodMenu} /><${CompareMenu} />`}
      <button class="button quiet square" type="button" title="Sign out" onClick=${leave}><${Icon} name="leave" /><span class="sr">Sign out</span></button>
    </div>
  </header>`;
}

function customerName() {
  const { customer } = session.value;
  return customer ? customer.name ?? `Customer ${customer.customer_id}` : 'Headrace';
}

/** How far the numbers are behind the world, told twice a second to the eye and never to a screen reader. */
function Badge() {
  const [, tickNow] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tickNow((n) => n + 1), 500);
    return () => clearInterval(timer);
  }, []);
  const state = view.value.trouble ? 'offline' : liveState.value;
  const words = { live: 'live', polling: 'polling', reconnecting: 'reconnecting', connecting: 'connecting', paused: 'paused', offline: 'offline' };
  const fresh = freshness.value;
  const seconds = fresh ? fresh.s + (performance.now() - fresh.at) / 1000 : null;
  const title = view.value.trouble || 'How far the numbers on this page are behind the events as they arrive';
  return html`<p class="badge" data-state=${state} title=${title}>
    <span class="dot" aria-hidden="true"></span><span>${words[state]}</span>
    ${seconds !== null && html`<span class="behind"><span aria-hidden="true">·</span> ${behind(seconds)} behind</span>`}
  </p>`;
}

function PeriodMenu() {
  const now = Date.now();
  const r = route.value;
  const span = resolve(r, now);
  const plain = r.period !== 'custom' && !r.date;
  const label = plain ? PERIODS[r.period].label : rangeName(span.from, span.to, span.tz);
  return html`<div class="stepper">
    <button class="button square" type="button" disabled=${r.period === 'realtime'} title="Earlier (←)" onClick=${() => move(-1)}><${Icon} name="left" /><span class="sr">Earlier period</span></button>
    <${Menu} name="Period" label=${html`<span class="period">${label}</span>`}>${(/** @type {() => void} */ close) => html`<${PeriodPanel} close=${close} />`}<//>
    <button class="button square" type="button" disabled=${!canMoveLater()} title="Later (→)" onClick=${() => move(1)}><${Icon} name="right" /><span class="sr">Later period</span></button>
  </div>`;
}

/** @param {{close: () => void}} props */
function PeriodPanel({ close }) {
  const r = route.value;
  const span = resolve(r, Date.now());
  const [from, setFrom] = useState(dayName(span.from, span.tz));
  const [to, setTo] = useState(dayName(Math.min(span.to, Date.now() + DAY_MS) - 1, span.tz));
  const periods = /** @type {Period[]} */ (['realtime', 'day', '7d', '30d', '12mo']);
  const apply = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (!(from && to)) return;
    const [first, last] = from <= to ? [from, to] : [to, from];
    go({ period: 'custom', from: first, to: last, date: '', interval: '' });
    announce('Custom range');
    close();
  };
  return html`
    <div role="radiogroup" aria-label="Period">
      ${periods.map((period) => {
        const chosen = r.period === period && !r.date;
        return html`<button key=${period} class="choice" type="button" role="radio" aria-checked=${chosen} onClick=${() => { choosePeriod(period); close(); }}>
          <span class="tick">${chosen && html`<${Icon} name="check" />`}</span><span>${PERIODS[period].label}</span>
          ${PERIODS[period].key && html`<kbd aria-hidden="true">${PERIODS[period].key}</kbd>`}
        </button>`;
      })}
    </div>
    <form class="range" onSubmit=${apply}>
      <label>From <input type="date" required value=${from} onInput=${(/** @type {any} */ e) => setFrom(e.target.value)} /></label>
      <label>To <input type="date" required value=${to} onInput=${(/** @type {any} */ e) => setTo(e.target.value)} /></label>
      <button class="button strong" type="submit">Show range</button>
    </form>
    <p class="hint">Days of ${span.tz.replaceAll('_', ' ')}</p>`;
}

/** @type {Record<Compare, string>} */
const COMPARES = { previous: 'vs previous period', year: 'vs a year before', none: 'No comparison' };
/** @type {Record<Compare, string>} */
const COMPARES_SHORT = { previous: 'vs previous', year: 'vs last year', none: 'Not compared' };

function CompareMenu() {
  return html`<${Menu} name="Comparison" label=${html`<span class="compare-long">${COMPARES[route.value.compare]}</span><span class="compare-short" aria-hidden="true">${COMPARES_SHORT[route.value.compare]}</span>`}>${(/** @type {() => void} */ close) => html`
    <div role="radiogroup" aria-label="Comparison">
      ${/** @type {Compare[]} */ (Object.keys(COMPARES)).map((compare) => {
        const chosen = route.value.compare === compare;
        return html`<button key=${compare} class="choice" type="button" role="radio" aria-checked=${chosen} onClick=${() => { go({ compare }); announce(COMPARES[compare]); close(); }}>
          <span class="tick">${chosen && html`<${Icon} name="check" />`}</span><span>${COMPARES[compare]}</span>
          ${compare === 'none' && html`<kbd aria-hidden="true">X</kbd>`}
        </button>`;
      })}
    </div>`}<//>`;
}

export function Filters() {
  const { filters } = route.value;
  if (!filters.length) return null;
  return html`<section class="filters" aria-label="Filters">
    <ul>${filters.map((filter) => html`<li key=${JSON.stringify(filter)}>
      <button class="chip" type="button" onClick=${() => toggleFilter(filter)}>
        <span>${filterLabel(filter)}</span><${Icon} name="close" /><span class="sr">, remove this filter</span>
      </button>
    </li>`)}</ul>
    <button class="button quiet" type="button" onClick=${clearFilters}>Clear all <kbd aria-hidden="true">Esc</kbd></button>
  </section>`;
}
