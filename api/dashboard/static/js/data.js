/**
 * The page's numbers: what was asked, what came, and how fresh it is. Keeps the last good answers on the page while
 * new ones are on their way, and never shows an answer to a question that the URL no longer asks.
 * @typedef {import('./types.js').Answer} Answer
 * @typedef {import('./types.js').Route} Route
 * @typedef {import('./types.js').Span} Span
 */
import { signal } from '../vendor/signals.js';
import { ApiError, ask } from './api.js';
import { addToFeed, resetFeed } from './feed.js';
import { feedQuery, FEED_ROWS, headQueries, newestQuery, previousQueries, tableQueries } from './queries.js';
import { route } from './route.js';
import { session } from './session.js';
import { resolve } from './span.js';

/**
 * @typedef {object} View
 * @property {Record<string, Answer>} answers  by the names of queries.js
 * @property {Route | null} route   what the answers are to
 * @property {Span | null} span
 * @property {boolean} stale        the URL asks for something else, which is on its way
 * @property {string} trouble       why the last attempt failed, '' where it did not
 * @property {'unknown' | 'never' | 'some'} ever   whether the customer has any event at all
 * @property {number} newest        time of the newest event, 0 where not asked
 */

/** @type {import('../vendor/signals.js').Signal<View>} */
export const view = signal(/** @type {View} */ ({ answers: {}, route: null, span: null, stale: true, trouble: '', ever: 'unknown', newest: 0 }));

/** How far the numbers are behind: `s` seconds at `at` of performance.now(). */
export const freshness = signal(/** @type {{s: number, at: number} | null} */ (null));

const REFRESH_MS_MIN = 1_000;
// The headline is asked for with every change, tables and the compared period less often: they cost more, and move less.
const TABLES_MS = 3_000;
const PREVIOUS_MS = 60_000;
const RETRY_MS = 3_000;

let asked = '';
let previousAt = -Infinity;
let tablesAt = -Infinity;
let lastMs = 0;
let lastEnd = 0;
let again = false;
/** @type {AbortController | null} */
let flight = null;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let tablesTimer;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

/** Part of a route that questions depend on. @param {Route} r */
function question(r) {
  return JSON.stringify([r.period, r.date, r.from, r.to, r.interval, r.compare, r.metric, r.filters, r.tabs, r.more, r.tz]);
}

/** Asks everything again if the URL's question has changed. */
export function followRoute() {
  const now = question(route.value);
  if (now === asked) return;
  const before = view.value.route;
  if (!before || JSON.stringify(before.filters) !== JSON.stringify(route.value.filters)) resetFeed();
  asked = now;
  view.value = { ...view.value, stale: true };
  void load(true);
}

/** Something changed on the server: ask again, not more often than once a second, and resting as long as it took. */
export function refreshSoon() {
  if (timer !== undefined) return;
  const wait = Math.max(REFRESH_MS_MIN, lastMs) - (performance.now() - lastEnd);
  timer = setTimeout(() => {
    timer = undefined;
    void load(false);
  }, Math.max(wait, 0));
}

/** The tables of the last change, where they were spared; without more changes nobody else would ask. */
function refreshTables() {
  tablesTimer = undefined;
  refreshSoon();
}

/** A period that ends now moves on although nothing comes: minutes, and the day at midnight. */
export function followClock() {
  const { span, stale } = view.value;
  if (span && !stale && !document.hidden && resolve(route.value, Date.now()).to !== span.to) refreshSoon();
}

/** Everything, at once: after a silence, or when asked by hand. */
export function refreshAll() {
  void load(true);
}

/** @param {boolean} everything also the compared period and the feed */
export async function load(everything) {
  if (session.value.state !== 'in') return;
  if (flight && !everything) {
    // What comes now may be too late for the answer under way, and nothing may follow to ask again.
    again = true;
    return;
  }
  again = false;
  flight?.abort();
  const mine = new AbortController();
  flight = mine;
  const started = performance.now();
  const r = route.value;
  const span = resolve(r, Date.now());
  const all = everything || spanMoved(span);
  const previousDue = all || started - previousAt > PREVIOUS_MS;
  const tablesDue = all || started - tablesAt > TABLES_MS;
  /** @type {Record<string, object>} */
  const queries = { ...headQueries(r, span), ...(previousDue ? previousQueries(r, span) : {}), ...(tablesDue ? tableQueries(r, span) : {}) };
  if (everything) queries.feed = feedQuery(r, Date.now(), span.tz, FEED_ROWS);
  try {
    const found = await ask(Object.values(queries), mine.signal);
    const answers = Object.fromEntries(Object.keys(queries).map((name, place) => [name, found[place]]));
    if (previousDue) previousAt = performance.now();
    if (tablesDue) tablesAt = performance.now();
    else tablesTimer ??= setTimeout(refreshTables, TABLES_MS);
    if (answers.feed && !answers.feed.error) addToFeed(rowsAsObjects(answers.feed), r);
    delete answers.feed;
    const kept = Object.entries(view.value.answers).filter(([name]) => (name.startsWith('previous') ? !previousDue : !tablesDue));
    const meta = answers.totals?.meta;
    if (meta) freshness.value = meta.freshness_s === null ? null : { s: meta.freshness_s, at: performance.now() };
    view.value = { ...view.value, answers: { ...Object.fromEntries(kept), ...answers }, route: r, span, stale: false, trouble: '' };
    await lookForAny();
  } catch (error) {
    if (mine.signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) return;
    view.value = { ...view.value, trouble: error.message };
    setTimeout(refreshSoon, Math.max(RETRY_MS, error.retryAfterS * 1000) * (0.75 + Math.random() / 2));
  } finally {
    if (flight === mine) {
      flight = null;
      lastEnd = performance.now();
      lastMs = lastEnd - started;
      if (again) refreshSoon();
    }
  }
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let feedTimer;

/** The stream knows no filters, so a filtered feed is asked for again when anything came. */
export function pollFeedSoon() {
  feedTimer ??= setTimeout(() => {
    feedTimer = undefined;
    void pollFeed();
  }, 2 * REFRESH_MS_MIN);
}

/** The newest events alone: while the stream is away, or under a filter. */
export async function pollFeed() {
  if (session.value.state !== 'in') return;
  const r = route.value;
  try {
    const [answer] = await ask([feedQuery(r, Date.now(), r.tz || 'UTC', FEED_ROWS)]);
    if (!answer.error) addToFeed(rowsAsObjects(answer), r);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
  }
}

/** A running period of minutes moves on, and its comparison with it. @param {Span} span */
function spanMoved(span) {
  return view.value.span !== null && view.value.span.from !== span.from;
}

/** An empty period may mean that nothing was ever sent; only then the page explains how to send something. */
async function lookForAny() {
  const { answers, ever, route: r } = view.value;
  const total = answers.totals?.rows?.[0]?.[0] ?? 0;
  if (total > 0) {
    if (ever !== 'some') view.value = { ...view.value, ever: 'some' };
    return;
  }
  if (ever === 'some' || (r && r.filters.length > 0 && ever !== 'unknown')) return;
  const [answer] = await ask([newestQuery(Date.now())]);
  if (answer.error) return;
  const newest = rowsAsObjects(answer)[0];
  view.value = { ...view.value, ever: newest ? 'some' : 'never', newest: newest ? Date.parse(newest.timestamp) : 0 };
}

/** @param {Answer} answer @returns {any[]} */
export function rowsAsObjects(answer) {
  return answer.rows.map((row) => Object.fromEntries(answer.columns.map((column, place) => [column.name, row[place]])));
}
