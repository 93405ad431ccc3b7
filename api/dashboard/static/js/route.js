/**
 * The URL is the page's only lasting state: what it says is here, and changing it is the only way to change it.
 * @typedef {import('./types.js').Route} Route
 * @typedef {import('./types.js').Filter} Filter
 */
import { signal } from '../vendor/signals.js';
import { PERIODS } from './span.js';
import { dayStart } from './time.js';

/** @type {Route} */
const DEFAULTS = {
  period: '30d', date: '', from: '', to: '', interval: '', compare: 'previous', metric: 'users', filters: [],
  tabs: {}, more: [], view: 'chart', paused: false, tz: '',
};
const OPERATORS = ['is', 'is_not', 'contains', 'set', 'not_set'];
const TABLE_DIMENSIONS = { sources: ['utm_source'], devices: ['browser', 'os'] };

/**
 * Reads a query string; whatever it does not understand counts as absent.
 * @param {string} search @returns {Route}
 */
export function parse(search) {
  const q = new URLSearchParams(search);
  const get = (/** @type {string} */ name) => q.get(name) ?? '';
  /** @template {string} T @param {string} name @param {readonly T[]} allowed @param {T} otherwise @returns {T} */
  const choice = (name, allowed, otherwise) => allowed.find((value) => value === get(name)) ?? otherwise;
  const day = (/** @type {string} */ name) => (isDay(get(name)) ? get(name) : '');
  /** @type {Route['tabs']} */
  const tabs = {};
  for (const [table, dimensions] of Object.entries(TABLE_DIMENSIONS)) {
    if (dimensions.includes(get(table))) tabs[/** @type {'sources' | 'devices'} */ (table)] = get(table);
  }
  return {
    period: choice('period', /** @type {Route['period'][]} */ (Object.keys(PERIODS)), DEFAULTS.period),
    date: day('date'), from: day('from'), to: day('to'),
    interval: choice('interval', ['', 'minute', 'hour', 'day', 'week', 'month'], ''),
    compare: choice('compare', ['previous', 'year', 'none'], DEFAULTS.compare),
    metric: choice('metric', ['events', 'users', 'value'], DEFAULTS.metric),
    filters: q.getAll('f').map(parseFilter).filter((filter) => filter !== null),
    tabs,
    more: get('more').split(',').filter(Boolean),
    view: choice('view', ['chart', 'table'], 'chart'),
    paused: get('feed') === 'paused',
    tz: validZone(get('tz')) ? get('tz') : '',
  };
}

/** @param {string} text */
function isDay(text) {
  return !Number.isNaN(dayStart(text, 'UTC'));
}

/** @param {string} text @returns {Filter | null} */
function parseFilter(text) {
  const [operator, dimension, ...values] = text.split('~').map(decodeURIComponentSafely);
  if (!OPERATORS.includes(operator) || !dimension) return null;
  if (operator === 'set' || operator === 'not_set') return [operator, dimension];
  return values.length ? [operator, dimension, values] : null;
}

/** Guards the separator of a filter's parts. @param {string} part */
function escapePart(part) {
  return part.replaceAll('%', '%25').replaceAll('~', '%7E');
}

/** @param {string} text */
function decodeURIComponentSafely(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @param {string} zone */
function validZone(zone) {
  try {
    return Boolean(zone && new Intl.DateTimeFormat('en', { timeZone: zone }));
  } catch {
    return false;
  }
}

/** @param {Route} r @returns {string} '' or '?…', with only what differs from the defaults */
export function unparse(r) {
  const q = new URLSearchParams();
  const put = (/** @type {string} */ name, /** @type {string} */ value, /** @type {string} */ otherwise) => {
    if (value !== otherwise) q.append(name, value);
  };
  put('period', r.period, DEFAULTS.period);
  if (r.period === 'custom') {
    put('from', r.from, '');
    put('to', r.to, '');
  } else if (r.period !== 'realtime') put('date', r.date, '');
  put('interval', r.interval, '');
  put('compare', r.compare, DEFAULTS.compare);
  put('metric', r.metric, DEFAULTS.metric);
  for (const [operator, dimension, values] of r.filters) {
    q.append('f', [operator, dimension, ...(values ?? [])].map(escapePart).join('~'));
  }
  for (const [table, dimension] of Object.entries(r.tabs)) put(table, dimension ?? '', '');
  put('more', r.more.join(','), '');
  put('view', r.view, 'chart');
  if (r.paused) q.append('feed', 'paused');
  put('tz', r.tz, '');
  const text = q.toString();
  return text ? `?${text}` : '';
}

/** What the URL says now. */
export const route = signal(parse(location.search));

/** Changes the URL. @param {Partial<Route>} patch */
export function go(patch) {
  const next = { ...route.value, ...patch };
  const search = unparse(next);
  if (search !== unparse(route.value)) history.pushState(null, '', location.pathname + search);
  route.value = next;
}

/** Follows the browser's back and forward. */
export function followHistory() {
  addEventListener('popstate', () => {
    route.value = parse(location.search);
  });
}

/** @param {string} dimension @param {string | null} value @returns {Filter} */
export function filterFor(dimension, value) {
  return value === null || value === '' ? ['not_set', dimension] : ['is', dimension, [value]];
}

/** @param {Filter} a @param {Filter} b */
function same(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** @param {Filter} filter */
export function hasFilter(filter) {
  return route.value.filters.some((other) => same(other, filter));
}

/** Sets the filter, in the place of any other on its dimension; takes it away where it was set. @param {Filter} filter */
export function toggleFilter(filter) {
  const others = route.value.filters.filter((other) => other[1] !== filter[1]);
  go({ filters: hasFilter(filter) ? route.value.filters.filter((other) => !same(other, filter)) : [...others, filter] });
}
