/** Keys for the whole page; a field or an open menu has its keys to itself. */
import { announce } from './announce.js';
import { go, route } from './route.js';
import { PERIODS, resolve, step } from './span.js';

/** @typedef {import('./types.js').Period} Period */

/** @type {Record<string, Period>} */
const PERIOD_KEYS = { d: 'day', w: '7d', m: '30d', r: 'realtime' };

/** @param {Period} period */
export function choosePeriod(period) {
  go({ period, date: '', from: '', to: '', interval: '' });
  announce(PERIODS[period].label);
}

/** @param {-1 | 1} direction */
export function move(direction) {
  const patch = step(route.value, direction, Date.now());
  if (!patch) return;
  go(patch);
  announce(direction < 0 ? 'Earlier period' : 'Later period');
}

export function canMoveLater() {
  return route.value.period !== 'realtime' && resolve(route.value, Date.now()).to <= Date.now();
}

export function followKeys() {
  addEventListener('keydown', (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.closest('input, textarea, select, [data-menu]')) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key in PERIOD_KEYS) choosePeriod(PERIOD_KEYS[key]);
    else if (key === 'ArrowLeft') move(-1);
    else if (key === 'ArrowRight') move(1);
    else if (key === 'x') toggleCompare();
    else if (key === 'Escape') clearFilters();
    else return;
    event.preventDefault();
  });
}

function toggleCompare() {
  const compare = route.value.compare === 'none' ? 'previous' : 'none';
  go({ compare });
  announce(compare === 'none' ? 'Comparison off' : 'Compared with the previous period');
}

export function clearFilters() {
  if (!route.value.filters.length) return;
  go({ filters: [] });
  announce('Filters cleared');
}
