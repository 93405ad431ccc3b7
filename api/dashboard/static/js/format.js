/**
 * Numbers, times and names as people read them. English, with the figures of the reader's zone.
 * @typedef {import('./types.js').MetricName} MetricName
 * @typedef {import('./types.js').Span} Span
 * @typedef {import('./types.js').Interval} Interval
 * @typedef {import('./types.js').Filter} Filter
 */
import { bucketEnd } from './span.js';
import { DAY_MS } from './time.js';

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const cents = new Intl.NumberFormat('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });
const compactAxis = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const WHOLE_MAX = 99_999_999;

/** @type {Record<MetricName, {label: string, query: string}>} */
export const METRICS = {
  events: { label: 'Events', query: 'events' },
  users: { label: 'Users', query: 'users' },
  value: { label: 'Value', query: 'sum(value)' },
};

/** A figure in full, so that it can be compared to the unit. @param {number} n @param {MetricName} metric */
export function figure(n, metric) {
  if (Math.abs(n) > WHOLE_MAX) return minus(compact.format(n));
  return minus((metric === 'value' ? cents : whole).format(n));
}

/** A figure for a table cell: cents only while they matter. @param {number} n @param {MetricName} metric */
export function cell(n, metric) {
  if (n === 0) return '0';
  return metric === 'value' && Math.abs(n) < 10_000 ? minus(cents.format(n)) : minus(Math.abs(n) > 9_999_999 ? compact.format(n) : whole.format(n));
}

/** @param {number} n */
export function tick(n) {
  return minus(compactAxis.format(n));
}

/** @param {string} text a true minus sign is as wide as a figure */
function minus(text) {
  return text.replace('-', '\u2212');
}

/** Part of a whole; '' where that means nothing. @param {number} part @param {number} total */
export function share(part, total) {
  // Where refunds lower the total, a part can exceed it and its share says nothing.
  if (!(total > 0) || part <= 0 || part > total) return '';
  const percent = (part / total) * 100;
  return percent > 0 && percent < 0.1 ? '<0.1%' : `${percent >= 9.95 ? Math.round(percent) : percent.toFixed(1)}%`;
}

/**
 * Change against a previous figure.
 * @param {number} now @param {number} before
 * @returns {{text: string, direction: 'up' | 'down' | 'same', said: string}}
 */
export function delta(now, before) {
  if (now === before) return { text: '0%', direction: 'same', said: 'unchanged' };
  const direction = now > before ? /** @type {const} */ ('up') : /** @type {const} */ ('down');
  // No share of nothing, nor of less: only the two figures can be told.
  if (before <= 0) return { text: '', direction: 'same', said: direction === 'up' ? 'more than before' : 'less than before' };
  const percent = Math.abs((now - before) / before) * 100;
  const text = percent >= 1000 ? `${whole.format(Math.round(percent / 100))}×` : `${percent < 9.95 ? percent.toFixed(1) : Math.round(percent)}%`;
  return { text, direction, said: `${direction === 'up' ? 'up' : 'down'} ${text}` };
}

/** @param {number} seconds */
export function behind(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

/** @type {Map<string, Intl.DateTimeFormat>} */
const dateFormats = new Map();

/** @param {number} at @param {string} tz @param {Intl.DateTimeFormatOptions} options */
export function date(at, tz, options) {
  const key = tz + JSON.stringify(options);
  let format = dateFormats.get(key);
  if (!format) {
    format = new Intl.DateTimeFormat('en-GB', { timeZone: tz, hourCycle: 'h23', ...options });
    dateFormats.set(key, format);
  }
  return format.format(at);
}

/** Clock time of a feed row; its day where that is not today. @param {number} at @param {string} tz */
export function clock(at, tz) {
  /** @type {Intl.DateTimeFormatOptions} */
  const day = { day: 'numeric', month: 'short' };
  if (date(at, tz, day) !== date(Date.now(), tz, day)) return date(at, tz, day);
  return date(at, tz, { hour: '2-digit', minute: '2-digit', second: '2-digit' });
}

/** An instant in full. @param {number} at @param {string} tz */
export function moment(at, tz) {
  return date(at, tz, { dateStyle: 'medium', timeStyle: 'medium' });
}

/** Short name of a bucket for an axis. @param {number} at @param {Span} span */
export function bucketTick(at, span) {
  const { interval, tz } = span;
  if (interval === 'minute') return date(at, tz, { hour: '2-digit', minute: '2-digit' });
  if (interval === 'hour') {
    return span.to - span.from > 2.1 * DAY_MS ? date(at, tz, { weekday: 'short', day: 'numeric' }) : date(at, tz, { hour: '2-digit', minute: '2-digit' });
  }
  if (interval === 'month') return date(at, tz, { month: 'short', year: '2-digit' });
  return date(at, tz, { day: 'numeric', month: 'short' });
}

/** Full name of a bucket. @param {number} at @param {Span} span */
export function bucketName(at, span) {
  const { interval, tz } = span;
  if (interval === 'minute') return date(at, tz, { hour: '2-digit', minute: '2-digit' });
  if (interval === 'hour') return date(at, tz, { weekday: 'short', day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });
  if (interval === 'month') return date(at, tz, { month: 'long', year: 'numeric' });
  if (interval === 'week') return `Week of ${dayRange(at, bucketEnd(at, span), tz)}`;
  return date(at, tz, { weekday: 'short', day: 'numeric', month: 'short', year: 'numeric' });
}

/** A period as people write it: hours while it is under a day. @param {number} from @param {number} to half-open @param {string} tz */
export function rangeName(from, to, tz) {
  if (to - from >= 0.9 * DAY_MS) return dayRange(from, to, tz);
  /** @type {Intl.DateTimeFormatOptions} */
  const time = { hour: '2-digit', minute: '2-digit' };
  return `${date(from, tz, time)} – ${date(to, tz, time)}`;
}

/** @param {number} from @param {number} to half-open @param {string} tz */
export function dayRange(from, to, tz) {
  const last = to - 1;
  const sameYear = date(from, tz, { year: 'numeric' }) === date(last, tz, { year: 'numeric' });
  const thisYear = sameYear && date(Date.now(), tz, { year: 'numeric' }) === date(last, tz, { year: 'numeric' });
  /** @type {Intl.DateTimeFormatOptions} */
  const short = { day: 'numeric', month: 'short' };
  /** @type {Intl.DateTimeFormatOptions} */
  const long = thisYear ? short : { ...short, year: 'numeric' };
  const end = date(last, tz, long);
  const start = date(from, tz, sameYear ? short : long);
  return date(from, tz, { ...short, year: 'numeric' }) === date(last, tz, { ...short, year: 'numeric' }) ? date(from, tz, { weekday: 'short', ...long }) : `${start} – ${end}`;
}

/** @type {Record<string, string>} */
const DIMENSION_LABELS = {
  event: 'Event', path: 'Page', referrer_domain: 'Referrer', utm_source: 'Campaign source', country: 'Country',
  device: 'Device', browser: 'Browser', os: 'System', user_id: 'User',
};
/** @type {Record<string, string>} */
const UNSET_LABELS = {
  referrer_domain: 'Direct or none', utm_source: 'No campaign', path: 'No page', country: 'Unknown', event: 'Unnamed',
};
/** @type {Intl.DisplayNames | undefined} */
let regions;

/** @param {string} dimension */
export function dimensionLabel(dimension) {
  return DIMENSION_LABELS[dimension] ?? dimension;
}

/** A dimension's value as a name. @param {string} dimension @param {string | null | undefined} value */
export function valueLabel(dimension, value) {
  if (value === null || value === undefined || value === '') return UNSET_LABELS[dimension] ?? 'Unknown';
  if (value === '(other)') return 'Everything else';
  if (dimension === 'country' && /^[A-Z]{2}$/.test(value)) {
    regions ??= new Intl.DisplayNames(['en'], { type: 'region', fallback: 'code' });
    return regions.of(value) ?? value;
  }
  if (dimension === 'device') return value.charAt(0).toUpperCase() + value.slice(1);
  return value;
}

/** @param {Filter} filter */
export function filterLabel([operator, dimension, values]) {
  const name = dimensionLabel(dimension);
  if (operator === 'not_set') return `${name} is ${valueLabel(dimension, null).toLowerCase()}`;
  if (operator === 'set') return `${name} is set`;
  const shown = /** @type {string[]} */ (values).map((value) => valueLabel(dimension, value)).join(' or ');
  return `${name} ${operator === 'is' ? 'is' : operator.replace('_', ' ')} ${shown}`;
}
