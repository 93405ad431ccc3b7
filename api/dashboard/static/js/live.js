/**
 * One EventSource for all tabs of a browser (HTTP/1.1 allows six connections per host). The visible tab that holds
 * a Web Lock listens and tells the others over a BroadcastChannel; a hidden tab lets go. Whoever hears nothing for
 * too long polls, so that no failure of the stream stops the numbers.
 */
import { signal } from '../vendor/signals.js';

/** @typedef {'connecting' | 'live' | 'reconnecting' | 'polling' | 'paused'} LiveState */
/** @typedef {{onStats: (stats: any) => void, onEvents: (events: any[]) => void, onPoll: () => void, onResync: () => void}} Hooks */

/** @type {import('../vendor/signals.js').Signal<LiveState>} */
export const liveState = signal(/** @type {LiveState} */ ('connecting'));

// The server says something at least every 5 s.
const SILENCE_MS = 8_000;
const REOPEN_AFTER_SILENCE_MS = 20_000;
const POLL_MS = 3_000;
const REOPEN_MS_MIN = 2_000;
const REOPEN_MS_MAX = 30_000;

/**
 * Starts listening; stops when the returned function is called.
 * @param {string} name tells customers apart @param {boolean} canStream false: poll only @param {Hooks} hooks
 */
export function listen(name, canStream, hooks) {
  const channel = new BroadcastChannel(`headrace-live-${name}`);
  /** @type {EventSource | null} */
  let source = null;
  /** @type {AbortController | null} */
  let claim = null;
  let lastHeard = performance.now();
  let lastPoll = -Infinity;
  let nextOpen = 0;
  let opens = 0;
  let heardOnce = false;
  let leading = false;

  channel.onmessage = ({ data }) => hear(data.kind, data.body);

  /** @param {string} kind @param {any} body */
  function hear(kind, body) {
    if (document.hidden) return;
    // What was missed while nothing was heard is fetched, not guessed.
    const missed = heardOnce && performance.now() - lastHeard > SILENCE_MS;
    lastHeard = performance.now();
    heardOnce = true;
    liveState.value = 'live';
    if (missed || kind === 'resync') hooks.onResync();
    if (kind === 'stats') hooks.onStats(body);
    if (kind === 'events') hooks.onEvents(body.events ?? []);
  }

  function open() {
    source?.close();
    opens += 1;
    nextOpen = performance.now() + Math.min(REOPEN_MS_MIN * 2 ** Math.min(opens, 5), REOPEN_MS_MAX) * (0.75 + Math.random() / 2);
    const opened = new EventSource('/v1/live');
    source = opened;
    opened.onopen = () => {
      opens = 0;
      // An open stream counts as heard: a quiet customer's page is not polled.
      hear('open', {});
      // It tells what comes from now on; what came since the last answer is asked for.
      hooks.onPoll();
      channel.postMessage({ kind: 'open', body: {} });
    };
    opened.onerror = () => {
      if (liveState.value === 'live' || liveState.value === 'connecting') liveState.value = 'reconnecting';
      // Closed for good (503, 401): no reason to wait for the silence to grow.
      if (opened.readyState === EventSource.CLOSED) lastHeard = -Infinity;
    };
    for (const kind of ['stats', 'events', 'resync']) {
      opened.addEventListener(kind, (message) => {
        const body = parse(message.data);
        if (body === null) return;
        hear(kind, body);
        channel.postMessage({ kind, body });
      });
    }
  }

  function take() {
    if (!canStream || claim) return;
    claim = new AbortController();
    const { signal: aborted } = claim;
    if (!navigator.locks) {
      leading = true;
      return open();
    }
    navigator.locks
      .request(`headrace-live-${name}`, { signal: aborted }, () => {
        leading = true;
        open();
        return new Promise((release) => aborted.addEventListener('abort', () => release(undefined), { once: true }));
      })
      .catch(() => {}); // The only error is our own abort, when the tab is hidden before its turn.
  }

  function letGo() {
    claim?.abort();
    claim = null;
    leading = false;
    source?.close();
    source = null;
  }

  function look() {
    if (document.hidden) return;
    const now = performance.now();
    const silent = now - lastHeard;
    const closed = source === null || source.readyState === EventSource.CLOSED;
    if (leading && now > nextOpen && (closed || silent > REOPEN_AFTER_SILENCE_MS)) open();
    if (silent < SILENCE_MS && canStream) return;
    liveState.value = 'polling';
    if (now - lastPoll >= POLL_MS) {
      lastPoll = now;
      hooks.onPoll();
    }
  }

  function onVisibility() {
    if (document.hidden) {
      letGo();
      liveState.value = 'paused';
      return;
    }
    lastHeard = performance.now();
    liveState.value = canStream ? 'connecting' : 'polling';
    take();
    hooks.onResync();
  }

  document.addEventListener('visibilitychange', onVisibility);
  const timer = setInterval(look, 500);
  if (document.hidden) liveState.value = 'paused';
  else take();

  return () => {
    document.removeEventListener('visibilitychange', onVisibility);
    clearInterval(timer);
    letGo();
    channel.close();
  };
}

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
