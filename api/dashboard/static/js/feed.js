/**
 * The live feed: newest first, each event once, bounded. While it is paused, what comes waits and is counted.
 * @typedef {import('./types.js').Route} Route
 */
import { signal } from '../vendor/signals.js';

/** @typedef {{message_id: string, event: string, type: string, user_id: string | null, anonymous_id: string | null,
 *   timestamp: string, [more: string]: any}} FeedEvent */

/** @type {import('../vendor/signals.js').Signal<{shown: FeedEvent[], waiting: FeedEvent[], loaded: boolean}>} */
export const feed = signal(/** @type {{shown: FeedEvent[], waiting: FeedEvent[], loaded: boolean}} */ ({ shown: [], waiting: [], loaded: false }));

const SHOWN_MAX = 60;
// More than this and the button says "500+": a feed left paused overnight must not fill the memory.
export const WAITING_MAX = 500;

/** @param {FeedEvent[]} events @param {Route} route */
export function addToFeed(events, route) {
  const { shown, waiting, loaded } = feed.value;
  const known = new Set([...shown, ...waiting].map((event) => event.message_id));
  const fresh = events.filter((event) => !known.has(event.message_id));
  if (!fresh.length && loaded) return;
  // The first page of a paused feed is what it was paused at, so it is shown.
  if (route.paused && loaded) {
    feed.value = { shown, waiting: newestFirst([...fresh, ...waiting]).slice(0, WAITING_MAX), loaded: true };
  } else {
    feed.value = { shown: newestFirst([...fresh, ...waiting, ...shown]).slice(0, SHOWN_MAX), waiting: [], loaded: true };
  }
}

/** Shows what waits. */
export function showWaiting() {
  const { shown, waiting } = feed.value;
  feed.value = { shown: newestFirst([...waiting, ...shown]).slice(0, SHOWN_MAX), waiting: [], loaded: true };
}

/** Other filters: another feed. */
export function resetFeed() {
  feed.value = { shown: [], waiting: [], loaded: false };
}

/** @param {FeedEvent[]} events */
function newestFirst(events) {
  return events.sort((a, b) => Date.parse(b.timestamp) - Date.parse(a.timestamp));
}
