/** The whole page, by what state the session and the data are in. */
import { announcement } from '../announce.js';
import { refreshAll, view } from '../data.js';
import { date } from '../format.js';
import { html } from '../html.js';
import { TABLE_NAMES } from '../queries.js';
import { go, route } from '../route.js';
import { session } from '../session.js';
import { dayName } from '../time.js';
import { Breakdown } from './breakdown.js';
import { FirstEvent, SignIn } from './gate.js';
import { Filters, Header } from './header.js';
import { LiveFeed } from './livefeed.js';
import { Overview } from './overview.js';

export function Page() {
  const said = html`<div class="sr" role="status" aria-live="polite">${announcement.value}</div>`;
  if (session.value.state === 'out') return html`<${SignIn} />${said}`;
  const empty = view.value.ever === 'never';
  return html`<a class="skip" href="#main" onClick=${skip}>Skip to the numbers</a>
    <div class="page" data-stale=${view.value.stale && view.value.span !== null}>
      <${Header} empty=${empty} />
      <main id="main" tabindex="-1">
        <${Filters} />
        <${Trouble} />
        ${empty
          ? html`<${FirstEvent} />`
          : html`<${Quiet} /><${Overview} />
            <div class="grid">${TABLE_NAMES.map((table) => html`<${Breakdown} key=${table} table=${table} />`)}<${LiveFeed} /></div>`}
      </main>
      <${Footer} />
    </div>${said}`;
}

/** The fragment is the login's; a skip link must not touch the URL. @param {Event} event */
function skip(event) {
  event.preventDefault();
  document.getElementById('main')?.focus();
}

function Trouble() {
  const { trouble, span } = view.value;
  if (!trouble) return null;
  return html`<p class="banner" role="alert">${trouble} ${span ? 'These are the last numbers that came.' : ''} Trying again. <button class="button quiet" type="button" onClick=${refreshAll}>Try now</button></p>`;
}

/** An empty period of a customer that does have events elsewhere. */
function Quiet() {
  const { answers, newest, span } = view.value;
  const total = answers.totals?.rows?.[0]?.[0];
  if (total !== 0 || !newest || !span || route.value.filters.length || (newest >= span.from && newest < span.to)) return null;
  const day = dayName(newest, span.tz);
  return html`<p class="banner calm">No events in this period. The newest is of ${date(newest, span.tz, { day: 'numeric', month: 'long', year: 'numeric' })}.
    <button class="button quiet" type="button" onClick=${() => go({ period: '30d', date: day, interval: '' })}>Show that month</button></p>`;
}

function Footer() {
  const meta = view.value.answers.totals?.meta;
  const { span } = view.value;
  if (!meta || !span) return html`<footer></footer>`;
  const clockOptions = /** @type {const} */ ({ hour: '2-digit', minute: '2-digit', second: '2-digit' });
  const final = meta.final_until ? ` · final until ${date(Date.parse(meta.final_until), span.tz, { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' })}` : '';
  const late = meta.late_events ? ` · ${meta.late_events} late events included` : '';
  return html`<footer><p>${meta.as_of ? `As of ${date(Date.parse(meta.as_of), span.tz, clockOptions)} ${span.tz.replaceAll('_', ' ')}` : 'Nothing stored yet'}${final}${late}</p>
    <p class="shortcuts"><kbd>D</kbd> day <kbd>W</kbd> week <kbd>M</kbd> month <kbd>R</kbd> realtime <kbd>←</kbd><kbd>→</kbd> move <kbd>X</kbd> compare <kbd>Esc</kbd> clear filters</p></footer>`;
}
