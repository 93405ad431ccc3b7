/** Starts the page: session, then numbers, then the live stream that keeps them fresh. */
import { render } from '../vendor/preact.js';
import { effect, untracked } from '../vendor/signals.js';
import { announce } from './announce.js';
import { followClock, followRoute, freshness, load, pollFeed, pollFeedSoon, refreshAll, refreshSoon, view } from './data.js';
import { addToFeed } from './feed.js';
import { figure } from './format.js';
import { html } from './html.js';
import { followKeys } from './keys.js';
import { listen } from './live.js';
import { followHistory, route } from './route.js';
import { begin, session, usesToken } from './session.js';
import { Page } from './ui/page.js';

followHistory();
followKeys();
render(html`<${Page} />`, /** @type {HTMLElement} */ (document.getElementById('app')));

/** @type {(() => void) | null} */
let stop = null;
let listeningFor = '';

effect(() => {
  const { state, customer } = session.value;
  const wanted = state === 'in' && customer ? `${customer.customer_id}` : '';
  if (wanted === listeningFor) return;
  listeningFor = wanted;
  stop?.();
  stop = null;
  document.title = customer?.name ? `${customer.name} · Headrace` : 'Headrace';
  if (!wanted) return;
  stop = untracked(() => listen(wanted, !usesToken(), {
    onStats(stats) {
      // What has not changed is as fresh as the server says; what has is as fresh as the next answer.
      if (stats.changed === false && typeof stats.freshness_s === 'number') freshness.value = { s: stats.freshness_s, at: performance.now() };
      if (stats.changed !== false) refreshSoon();
    },
    onEvents(events) {
      if (route.peek().filters.length) pollFeedSoon();
      else addToFeed(events, route.peek());
    },
    onPoll() {
      void load(false);
      void pollFeed();
    },
    onResync: refreshAll,
  }));
});

effect(() => {
  if (session.value.state === 'in' && route.value) untracked(followRoute);
});

setInterval(followClock, 5_000);

// Each outcome of a choice is told once, when its numbers are there.
let told = '';
effect(() => {
  const { answers, stale, span, route: shown } = view.value;
  if (stale || !span || !shown || !answers.totals?.rows) return;
  const key = JSON.stringify([shown.period, shown.date, shown.from, shown.to, shown.filters]);
  if (key === told) return;
  const first = told === '';
  told = key;
  const [events, users] = answers.totals.rows[0];
  if (!first) untracked(() => announce(`${figure(events, 'events')} events, ${figure(users, 'users')} users`));
});

void begin();
