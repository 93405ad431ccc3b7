/**
 * Calendar arithmetic in a named time zone, by Intl alone. Instants are epoch milliseconds.
 * @typedef {import('./types.js').Interval} Interval
 */

export const MINUTE_MS = 60_000;
export const HOUR_MS = 3_600_000;
export const DAY_MS = 86_400_000;

/** @type {Map<string, Intl.DateTimeFormat>} */
const partFormats = new Map();

/**
 * The wall clock of an instant in a zone.
 * @param {number} at @param {string} tz
 */
export function wall(at, tz) {
  let format = partFormats.get(tz);
  if (!format) {
    format = new Intl.DateTimeFormat('en-GB', {
      timeZone: tz, hourCycle: 'h23', year: 'numeric', month: 'numeric', day: 'numeric',
      hour: 'numeric', minute: 'numeric', second: 'numeric',
    });
    partFormats.set(tz, format);
  }
  /** @type {Record<string, number>} */
  const found = {};
  for (const part of format.formatToParts(at)) found[part.type] = Number(part.value);
  return { y: found.year, mo: found.month, d: found.day, h: found.hour, mi: found.minute, s: found.second };
}

/**
 * The instant of a wall clock; a time that a clock change skips becomes the one just after it.
 * @param {number} y @param {number} mo one-based, may overflow @param {number} d may overflow
 * @param {string} tz @param {number} [h] @param {number} [mi]
 */
export function instant(y, mo, d, tz, h = 0, mi = 0) {
  const asUtc = Date.UTC(y, mo - 1, d, h, mi);
  let at = asUtc - offset(asUtc, tz);
  at = asUtc - offset(at, tz);
  return at;
}

/** @param {number} at @param {string} tz milliseconds that the zone is ahead of UTC */
function offset(at, tz) {
  const w = wall(at, tz);
  return Date.UTC(w.y, w.mo - 1, w.d, w.h, w.mi, w.s) - Math.floor(at / 1000) * 1000;
}

/** @param {number} at @param {Interval} unit @param {string} tz */
export function startOf(at, unit, tz) {
  if (unit === 'minute') return Math.floor(at / MINUTE_MS) * MINUTE_MS;
  const w = wall(at, tz);
  if (unit === 'hour') return Math.floor((at - w.mi * MINUTE_MS) / MINUTE_MS) * MINUTE_MS;
  if (unit === 'month') return instant(w.y, w.mo, 1, tz);
  const back = unit === 'week' ? (new Date(Date.UTC(w.y, w.mo - 1, w.d)).getUTCDay() + 6) % 7 : 0;
  return instant(w.y, w.mo, w.d - back, tz);
}

/** @param {number} at @param {number} count @param {Interval} unit @param {string} tz */
export function add(at, count, unit, tz) {
  if (unit === 'minute') return at + count * MINUTE_MS;
  if (unit === 'hour') return at + count * HOUR_MS;
  const w = wall(at, tz);
  if (unit !== 'month') return instant(w.y, w.mo, w.d + count * (unit === 'week' ? 7 : 1), tz, w.h, w.mi);
  const last = new Date(Date.UTC(w.y, w.mo + count, 0)).getUTCDate();
  return instant(w.y, w.mo + count, Math.min(w.d, last), tz, w.h, w.mi);
}

/** @param {number} at @param {string} tz @returns {string} YYYY-MM-DD */
export function dayName(at, tz) {
  const w = wall(at, tz);
  return `${String(w.y).padStart(4, '0')}-${String(w.mo).padStart(2, '0')}-${String(w.d).padStart(2, '0')}`;
}

/** @param {string} name YYYY-MM-DD @param {string} tz @returns {number} NaN where it is not a day */
export function dayStart(name, tz) {
  const found = /^(\d{4})-(\d\d)-(\d\d)$/.exec(name);
  if (!found) return NaN;
  const at = instant(Number(found[1]), Number(found[2]), Number(found[3]), tz);
  return dayName(at, tz) === name ? at : NaN;
}

/** @param {number} at @returns {string} RFC 3339 in UTC, whole seconds */
export function rfc3339(at) {
  return new Date(at).toISOString().replace('.000Z', 'Z');
}

/** The zone of the browser. */
export function browserZone() {
  return Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC';
}
