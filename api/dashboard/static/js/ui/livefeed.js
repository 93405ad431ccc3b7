/** The newest events as they come, with a pause. */
import { csv, download } from '../csv.js';
import { feed, showWaiting, WAITING_MAX } from '../feed.js';
import { clock, figure, moment, valueLabel } from '../format.js';
import { html } from '../html.js';
import { go, route } from '../route.js';
import { browserZone } from '../time.js';
import { Icon } from './icons.js';

const ROWS = 40;

export function LiveFeed() {
  const { shown, waiting, loaded } = feed.value;
  const { paused, tz } = route.value;
  const zone = tz || browserZone();
  const toggle = () => {
    if (paused) showWaiting();
    go({ paused: !paused });
  };
  return html`<section class="card table-card feed-card" aria-label="Live events" data-table="feed">
    <div class="card-head">
      <h2>Live</h2>
      ${paused && waiting.length > 0 && html`<button class="waiting" type="button" onClick=${showWaiting}>${waiting.length >= WAITING_MAX ? `${WAITING_MAX}+` : waiting.length} new</button>`}
      <button class="button quiet square" type="button" aria-pressed=${paused} title=${paused ? 'Resume' : 'Pause'} onClick=${toggle}><${Icon} name=${paused ? 'play' : 'pause'} /><span class="sr">Pause the live events</span></button>
      <button class="button quiet square" type="button" title="Download as CSV" onClick=${save}><${Icon} name="download" /><span class="sr">Download live events as CSV</span></button>
    </div>
    ${!loaded
      ? html`<div class="row-skeletons">${['w9', 'w7', 'w8', 'w5', 'w6', 'w4', 'w7', 'w5'].map((w) => html`<div class=${`skeleton row-skeleton ${w}`}></div>`)}</div>`
      : shown.length === 0
        ? html`<p class="nothing">No events in the last two days</p>`
        : html`<div class="feed-scroll" tabindex="0" role="region" aria-label="Newest events">
            <ol class="feed">${shown.slice(0, ROWS).map((event) => html`<${FeedRow} key=${event.message_id} event=${event} zone=${zone} />`)}</ol>
          </div>`}
  </section>`;
}

/** @param {{event: import('../feed.js').FeedEvent, zone: string}} props */
function FeedRow({ event, zone }) {
  const at = Date.parse(event.timestamp);
  const who = event.user_id ?? event.anonymous_id ?? 'nobody';
  const value = event.value ?? event.properties?.value ?? event.properties?.revenue;
  const where = [event.path, event.country && valueLabel('country', event.country)].filter(Boolean).join(' · ');
  return html`<li>
    <time datetime=${event.timestamp} title=${moment(at, zone)}>${clock(at, zone)}</time>
    <span class="what"><b title=${event.event}>${event.event}</b>${where && html`<span class="where" title=${where}>${where}</span>`}</span>
    <span class="who" title=${who}>${typeof value === 'number' ? html`<b>${figure(value, 'value')}</b>` : who}</span>
  </li>`;
}

function save() {
  const names = ['timestamp', 'message_id', 'type', 'event', 'user_id', 'anonymous_id'];
  const columns = names.map((name) => ({ name, type: 'string' }));
  const rows = feed.value.shown.map((event) => names.map((name) => event[name]));
  download('headrace-live.csv', csv(/** @type {any} */ ({ columns, rows })));
}
