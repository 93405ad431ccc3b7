/**
 * Which queries the page asks, by what the URL says. Pure.
 * @typedef {import('./types.js').Route} Route
 * @typedef {import('./types.js').Span} Span
 * @typedef {import('./types.js').TableName} TableName
 */
import { METRICS } from './format.js';
import { rfc3339 } from './time.js';

/** @type {Record<TableName, {title: string, dimensions: string[]}>} */
export const TABLES = {
  events: { title: 'Events', dimensions: ['event'] },
  pages: { title: 'Pages', dimensions: ['path'] },
  sources: { title: 'Sources', dimensions: ['referrer_domain', 'utm_source'] },
  places: { title: 'Places', dimensions: ['country'] },
  devices: { title: 'Devices', dimensions: ['device', 'browser', 'os'] },
};
export const TABLE_NAMES = /** @type {TableName[]} */ (Object.keys(TABLES));
export const ROWS = 8;
export const ROWS_MORE = 100;
export const ROWS_CSV = 1000;
export const FEED_ROWS = 30;
const ALL_METRICS = Object.values(METRICS).map((metric) => metric.query);

/** @param {Route} route @param {TableName} table */
export function dimensionOf(route, table) {
  return route.tabs[table] ?? TABLES[table].dimensions[0];
}

/** @param {number} from @param {number} to @param {string} tz */
function range(from, to, tz) {
  return { from: rfc3339(from), to: rfc3339(to), tz };
}

/** @param {Route} route */
function filtered(route) {
  return route.filters.length ? { filters: ['and', route.filters] } : {};
}

/** The headline's queries, by name. @param {Route} route @param {Span} span @returns {Record<string, object>} */
export function headQueries(route, span) {
  const asked = { range: range(span.from, span.to, span.tz), ...filtered(route) };
  return {
    totals: { kind: 'totals', metrics: ALL_METRICS, ...asked },
    series: { kind: 'timeseries', metrics: ALL_METRICS, interval: span.interval, ...asked },
  };
}

/** The tables' queries, by name. @param {Route} route @param {Span} span */
export function tableQueries(route, span) {
  /** @type {Record<string, object>} */
  const queries = {};
  for (const table of TABLE_NAMES) queries[table] = tableQuery(route, span, table, route.more.includes(table) ? ROWS_MORE : ROWS);
  return queries;
}

/** Those of the compared period, which stands still. @param {Route} route @param {Span} span @returns {Record<string, object>} */
export function previousQueries(route, span) {
  const { previous, tz } = span;
  if (!previous) return {};
  return {
    previousTotals: { kind: 'totals', metrics: ALL_METRICS, range: range(previous.from, previous.sameUntil, tz), ...filtered(route) },
    previousSeries: { kind: 'timeseries', metrics: ALL_METRICS, interval: span.interval, range: range(previous.from, previous.to, tz), ...filtered(route) },
  };
}

/** @param {Route} route @param {Span} span @param {TableName} table @param {number} limit */
export function tableQuery(route, span, table, limit) {
  return {
    kind: 'breakdown', dimensions: [dimensionOf(route, table)], metrics: ALL_METRICS,
    order_by: [[METRICS[route.metric].query, 'desc']], limit, range: range(span.from, span.to, span.tz), ...filtered(route),
  };
}

// A feed shows what happens now, whatever period the cards show. Two days keep the question small.
const FEED_BACK_MS = 48 * 3_600_000;

/** The newest events. @param {Route} route @param {number} now @param {string} tz @param {number} limit */
export function feedQuery(route, now, tz, limit) {
  const to = Math.ceil(now / 60_000) * 60_000 + 60_000;
  return { kind: 'events', limit, range: range(to - FEED_BACK_MS, to, tz), ...filtered(route) };
}

/** The newest event of all time. @param {number} now */
export function newestQuery(now) {
  return { kind: 'events', limit: 1, range: range(Date.UTC(2000, 0, 1), Math.ceil(now / 60_000) * 60_000 + 86_400_000, 'UTC') };
}
