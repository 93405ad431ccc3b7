/**
 * From what the URL says to the instants that queries name. Pure: takes `now`.
 * @typedef {import('./types.js').Route} Route
 * @typedef {import('./types.js').Span} Span
 * @typedef {import('./types.js').Interval} Interval
 * @typedef {import('./types.js').Period} Period
 */
import { add, browserZone, dayName, dayStart, DAY_MS, HOUR_MS, MINUTE_MS, startOf } from './time.js';

/** @type {Record<Period, {label: string, key: string, intervals: Interval[]}>} */
export const PERIODS = {
  realtime: { label: 'Last 30 minutes', key: 'R', intervals: ['minute'] },
  day: { label: 'Today', key: 'D', intervals: ['hour'] },
  '7d': { label: 'Last 7 days', key: 'W', intervals: ['day', 'hour'] },
  '30d': { label: 'Last 30 days', key: 'M', intervals: ['day', 'week'] },
  '12mo': { label: 'Last 12 months', key: '', intervals: ['month', 'week', 'day'] },
  custom: { label: 'Custom range', key: '', intervals: ['day', 'week', 'month'] },
};

const REALTIME_MINUTES = 30;
// The rollups keep minutes for 48 h and hours for 400 days. A comparison that ends inside an older hour or day
// could only be answered from raw events, so its end is rounded to what the rollups still have.
const MINUTES_KEPT_MS = 46 * HOUR_MS;
const HOURS_KEPT_MS = 398 * DAY_MS;

/** @param {Route} route @param {number} now @returns {Span} */
export function resolve(route, now) {
  const tz = route.tz || browserZone();
  const { from, to, intervals } = bounds(route, now, tz);
  const interval = intervals.includes(/** @type {Interval} */ (route.interval))
    ? /** @type {Interval} */ (route.interval)
    : intervals[0];
  const span = { from, to, interval, intervals, tz, running: from <= now && now < to, previous: null };
  return { ...span, previous: previous(route, span, now) };
}

/** @param {Route} route @param {number} now @param {string} tz */
function bounds(route, now, tz) {
  const { period } = route;
  if (period === 'realtime') {
    const to = startOf(now, 'minute', tz) + MINUTE_MS;
    return { from: to - REALTIME_MINUTES * MINUTE_MS, to, intervals: PERIODS.realtime.intervals };
  }
  if (period === 'custom') {
    const from = dayStart(route.from, tz);
    const last = dayStart(route.to, tz);
    if (from <= last) {
      const to = add(last, 1, 'day', tz);
      return { from, to, intervals: intervalsFor((to - from) / DAY_MS) };
    }
  }
  const anchor = dayStart(route.date, tz) || startOf(now, 'day', tz);
  if (period === '12mo') {
    const month = startOf(anchor, 'month', tz);
    return { from: add(month, -11, 'month', tz), to: add(month, 1, 'month', tz), intervals: PERIODS[period].intervals };
  }
  const days = period === 'day' ? 1 : period === '7d' ? 7 : 30;
  const shape = period === 'custom' ? PERIODS['30d'] : PERIODS[period];
  return { from: add(anchor, 1 - days, 'day', tz), to: add(anchor, 1, 'day', tz), intervals: shape.intervals };
}

/** @param {number} days @returns {Interval[]} */
function intervalsFor(days) {
  if (days <= 2.1) return ['hour'];
  if (days <= 14.1) return ['day', 'hour'];
  if (days <= 92) return ['day', 'week'];
  if (days <= 400) return ['week', 'day', 'month'];
  return ['month', 'week'];
}

/** @param {Route} route @param {{from: number, to: number, tz: string}} span @param {number} now */
function previous(route, span, now) {
  if (route.compare === 'none') return null;
  const { tz } = span;
  /** @param {number} at */
  const shift = (at) => {
    if (route.compare === 'year') return add(at, -12, 'month', tz);
    if (route.period === 'realtime') return at - REALTIME_MINUTES * MINUTE_MS;
    if (route.period === '12mo') return add(at, -12, 'month', tz);
    return add(at, -Math.round((span.to - span.from) / DAY_MS), 'day', tz);
  };
  const from = shift(span.from);
  const to = shift(span.to);
  if (now >= span.to || now < span.from) return { from, to, sameUntil: to };
  const unit = now - from < MINUTES_KEPT_MS ? 'minute' : now - from < HOURS_KEPT_MS ? 'hour' : 'day';
  const reached = startOf(shift(now), unit, tz);
  const sameUntil = reached < shift(now) ? add(reached, 1, unit, tz) : reached;
  return { from, to, sameUntil: Math.min(Math.max(sameUntil, add(from, 1, 'minute', tz)), to) };
}

/**
 * The route one period earlier (-1) or later (+1); null where there is none (realtime, the future).
 * @param {Route} route @param {-1 | 1} direction @param {number} now @returns {Partial<Route> | null}
 */
export function step(route, direction, now) {
  if (route.period === 'realtime') return null;
  const span = resolve(route, now);
  const { tz } = span;
  if (direction > 0 && span.to > now) return null;
  if (route.period === 'custom') {
    const days = Math.round((span.to - span.from) / DAY_MS) * direction;
    return { from: dayName(add(span.from, days, 'day', tz), tz), to: dayName(add(span.to, days - 1, 'day', tz), tz) };
  }
  const lastDay = add(span.to, -1, 'day', tz);
  const moved =
    route.period === '12mo'
      ? add(span.to - DAY_MS, 12 * direction, 'month', tz)
      : add(lastDay, Math.round((span.to - span.from) / DAY_MS) * direction, 'day', tz);
  return { date: moved >= startOf(now, 'day', tz) ? '' : dayName(moved, tz) };
}

/** End of the bucket that starts at `at`. @param {number} at @param {Span} span */
export function bucketEnd(at, span) {
  return Math.min(add(at, 1, span.interval, span.tz), span.to);
}
