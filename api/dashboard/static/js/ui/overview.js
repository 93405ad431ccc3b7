/** The headline card: a figure per metric with its change, and the chart of the chosen one. */
import { useEffect, useRef, useState } from '../../vendor/preact-hooks.js';
import { announce } from '../announce.js';
import { makeChart } from '../chart.js';
import { csv, download } from '../csv.js';
import { view } from '../data.js';
import { bucketName, bucketTick, delta, figure, METRICS, rangeName, tick } from '../format.js';
import { html } from '../html.js';
import { go, route } from '../route.js';
import { bucketEnd } from '../span.js';
import { dayName } from '../time.js';
import { Icon } from './icons.js';

/** @typedef {import('../types.js').MetricName} MetricName */
/** @typedef {import('../types.js').Interval} Interval */
/** @typedef {import('../types.js').Answer} Answer */

const METRIC_NAMES = /** @type {MetricName[]} */ (Object.keys(METRICS));

export function Overview() {
  const { answers, stale, span } = view.value;
  const r = route.value;
  return html`<section class="card overview" aria-label="Overview" aria-busy=${stale}>
    <div class="kpis">${METRIC_NAMES.map((metric) => html`<${Kpi} key=${metric} metric=${metric} />`)}</div>
    <div class="chart-bar">
      <p class="legend">
        <span class="key now"></span><span class="legend-metric">${METRICS[r.metric].label}</span>
        ${answers.previousSeries && span?.previous && html`<span class="key before"></span><span class="range-name">${rangeName(span.previous.from, span.previous.to, span.tz)}</span>`}
      </p>
      <div class="tools">
        ${span && span.intervals.length > 1 && html`<div class="segments" role="group" aria-label="Interval">
          ${span.intervals.map((interval) => html`<button key=${interval} type="button" aria-pressed=${interval === span.interval} onClick=${() => go({ interval })}>${interval}</button>`)}
        </div>`}
        <button class="button quiet square" type="button" aria-pressed=${r.view === 'table'} title="Show as a table" onClick=${() => go({ view: r.view === 'table' ? 'chart' : 'table' })}>
          <${Icon} name=${r.view === 'table' ? 'chart' : 'table'} /><span class="sr">Show the chart as a table</span>
        </button>
        <button class="button quiet square" type="button" title="Download as CSV" disabled=${!answers.series || answers.series.error} onClick=${() => save(answers.series)}>
          <${Icon} name="download" /><span class="sr">Download the chart as CSV</span>
        </button>
      </div>
    </div>
    <${Chart} />
  </section>`;
}

/** @param {Answer} series */
function save(series) {
  const { span } = view.value;
  if (span) download(`headrace-${span.interval}-${dayName(span.from, span.tz)}-to-${dayName(span.to - 1, span.tz)}.csv`, csv(series));
}

/** @param {{metric: MetricName}} props */
function Kpi({ metric }) {
  const { answers, span } = view.value;
  const chosen = route.value.metric === metric;
  const place = METRIC_NAMES.indexOf(metric);
  const now = answers.totals?.rows ? Number(answers.totals.rows[0]?.[place] ?? 0) : null;
  const before = answers.previousTotals?.rows ? Number(answers.previousTotals.rows[0]?.[place] ?? 0) : null;
  const change = now !== null && before !== null ? delta(now, before) : null;
  const about = metric === 'users' && answers.totals?.meta?.exact === false;
  const until = span?.previous && rangeName(span.previous.from, span.previous.sameUntil, span.tz);
  return html`<button class="kpi" type="button" aria-pressed=${chosen} data-metric=${metric} onClick=${() => { go({ metric }); announce(`${METRICS[metric].label} plotted`); }}>
    <span class="label">${METRICS[metric].label}</span>
    ${now === null
      ? html`<span class="skeleton figure-skeleton"></span>`
      : html`<span class="figure" data-value=${now} title=${figure(now, metric)}>${about && html`<abbr class="about" title="Counted by a sketch: within about 1.6 %">≈</abbr>`}<${Figure} text=${figure(now, metric)} /></span>`}
    ${change
      ? html`<span class="change" data-direction=${change.direction} title=${`${figure(before ?? 0, metric)} in the same part of ${until}`}>
          <span aria-hidden="true">${change.direction === 'up' ? '↑' : change.direction === 'down' ? '↓' : ''} ${change.text}</span>
          <span class="sr">${change.said} against ${figure(before ?? 0, metric)}</span>
          <span class="was" aria-hidden="true">${figure(before ?? 0, metric)}</span>
        </span>`
      : html`<span class="change">${now === null ? html`<span class="skeleton change-skeleton"></span>` : '\u00a0'}</span>`}
  </button>`;
}

/** A figure whose cents a phone may leave out. @param {{text: string}} props */
function Figure({ text }) {
  const [whole, cents] = text.split('.');
  return html`${whole}${cents !== undefined && html`<span class="cents">.${cents}</span>`}`;
}

function Chart() {
  const { answers, span, stale } = view.value;
  const { metric, view: shape } = route.value;
  const host = useRef(/** @type {HTMLElement | null} */ (null));
  const chart = useRef(/** @type {import('../chart.js').Chart | null} */ (null));
  const cursor = useRef(/** @type {number | null} */ (null));
  const [point, setPoint] = useState(/** @type {{place: number, left: number, top: number} | null} */ (null));
  const series = answers.series?.rows ? readSeries(answers, metric, span) : null;

  useEffect(() => {
    if (!host.current) return undefined;
    chart.current = makeChart(host.current, (place, left, top) => {
      cursor.current = place;
      setPoint(place === null ? null : { place, left, top });
    });
    return () => {
      chart.current?.destroy();
      chart.current = null;
    };
  }, [series !== null && shape === 'chart']);

  useEffect(() => {
    if (!series || !span) return;
    chart.current?.set({
      current: series.current, previous: series.previous, buckets: series.times.length, incompleteFrom: series.incompleteFrom,
      tick: (place) => (series.times[place] === undefined ? '' : bucketTick(series.times[place], span)), amount: tick,
    });
  }, [answers, metric, shape]);

  if (answers.series?.error) return html`<p class="trouble">${answers.series.error.detail ?? answers.series.error.title}</p>`;
  if (!series || !span) return html`<div class="chart"><div class="skeleton chart-skeleton"></div></div>`;
  if (shape === 'table') return html`<div class="series-scroll" tabindex="0" role="region" aria-label="The chart's numbers"><${SeriesTable} series=${series} metric=${metric} span=${span} visible=${true} /></div>`;

  /** @param {number} place */
  const openDay = (place) => {
    const at = series.times[place];
    if (span.interval === 'day') go({ period: 'day', date: dayName(at, span.tz), interval: '' });
    else if (span.interval === 'week' || span.interval === 'month') {
      go({ period: 'custom', from: dayName(at, span.tz), to: dayName(bucketEnd(at, span) - 1, span.tz), date: '', interval: '' });
    } else return;
    announce(bucketName(at, span));
  };
  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    const last = series.times.length - 1;
    const at = cursor.current;
    const next = { ArrowLeft: Math.max((at ?? series.current.length) - 1, 0), ArrowRight: Math.min((at ?? -1) + 1, last), Home: 0, End: Math.max(series.current.length - 1, 0) }[event.key];
    if (next !== undefined) {
      cursor.current = next;
      chart.current?.point(next);
      announce(spoken(series, next, metric, span));
    } else if (event.key === 'Enter' && at !== null) openDay(at);
    else if (event.key === 'Escape' && at !== null) chart.current?.point(null);
    else return;
    event.preventDefault();
  };
  const drills = span.interval === 'day' || span.interval === 'week' || span.interval === 'month';
  return html`<figure class="chart" tabindex="0" role="group" aria-label=${`${METRICS[metric].label} by ${span.interval}, ${rangeName(span.from, span.to, span.tz)}. Arrow keys read it${drills ? ', Enter opens a period' : ''}.`}
      aria-busy=${stale} data-drills=${drills} onKeyDown=${onKeyDown} onBlur=${() => chart.current?.point(null)} onClick=${() => cursor.current !== null && openDay(cursor.current)}>
    <div class="plot" ref=${host} aria-hidden="true"></div>
    ${point && html`<${Tip} point=${point} series=${series} metric=${metric} span=${span} width=${host.current?.clientWidth ?? 0} />`}
    <div class="sr"><${SeriesTable} series=${series} metric=${metric} span=${span} visible=${false} /></div>
  </figure>`;
}

/** @typedef {{times: number[], current: number[], previous: (number | null)[], previousTimes: number[], incompleteFrom: number}} Series */

/** @param {Record<string, Answer>} answers @param {MetricName} metric @param {import('../types.js').Span | null} span @returns {Series | null} */
function readSeries(answers, metric, span) {
  if (!span) return null;
  const place = METRIC_NAMES.indexOf(metric) + 1;
  const { rows, meta } = answers.series;
  // The server's clock, by which buckets have begun and are over; the reader's may be wrong.
  const now = meta.as_of ? Date.parse(meta.as_of) + (meta.freshness_s ?? 0) * 1000 : Date.now();
  const times = rows.map((row) => Date.parse(row[0]));
  const begun = times.filter((at) => at <= now).length;
  const over = times.filter((at) => bucketEnd(at, span) <= now).length;
  const before = answers.previousSeries?.rows ?? [];
  return {
    times,
    current: rows.slice(0, begun).map((row) => Number(row[place] ?? 0)),
    previous: before.map((row) => Number(row[place] ?? 0)),
    previousTimes: before.map((row) => Date.parse(row[0])),
    incompleteFrom: over,
  };
}

/** @param {Series} series @param {number} place @param {MetricName} metric @param {import('../types.js').Span} span */
function spoken(series, place, metric, span) {
  const now = series.current[place];
  const before = series.previous[place];
  const parts = [bucketName(series.times[place], span)];
  parts.push(now === undefined ? 'not yet' : `${figure(now, metric)} ${METRICS[metric].label.toLowerCase()}`);
  if (now !== undefined && place >= series.incompleteFrom) parts.push('incomplete');
  if (before !== null && before !== undefined) parts.push(`before: ${figure(before, metric)}`);
  return parts.join(', ');
}

/** @param {{point: {place: number, left: number, top: number}, series: Series, metric: MetricName, span: import('../types.js').Span, width: number}} props */
function Tip({ point, series, metric, span, width }) {
  const { place } = point;
  const now = series.current[place];
  const before = series.previous[place];
  const incomplete = now !== undefined && place >= series.incompleteFrom;
  const change = now !== undefined && before !== null && before !== undefined && !incomplete ? delta(now, before) : null;
  const style = { transform: `translate(${Math.round(point.left)}px, 0)` };
  const side = point.left > width * 0.6 ? 'left' : 'right';
  return html`<div class="tip" data-side=${side} style=${style} aria-hidden="true"><div class="tip-box">
    <p class="tip-title">${bucketName(series.times[place], span)}${incomplete && html`<span class="tip-note">so far</span>`}</p>
    <p><span class="key now"></span>${METRICS[metric].label}<b>${now === undefined ? '–' : figure(now, metric)}</b></p>
    ${before !== null && before !== undefined && html`<p class="tip-before"><span class="key before"></span>${bucketName(series.previousTimes[place], { ...span, to: Infinity })}<b>${figure(before, metric)}</b></p>`}
    ${change && html`<p class="tip-change change" data-direction=${change.direction}>${change.direction === 'up' ? '↑' : change.direction === 'down' ? '↓' : ''} ${change.text}</p>`}
  </div></div>`;
}

/** @param {{series: Series, metric: MetricName, span: import('../types.js').Span, visible: boolean}} props */
function SeriesTable({ series, metric, span, visible }) {
  const compared = series.previous.length > 0;
  return html`<table class=${visible ? 'series' : ''}>
    <caption class="sr">${METRICS[metric].label} by ${span.interval}</caption>
    <thead><tr><th scope="col">Time</th><th scope="col">${METRICS[metric].label}</th>${compared && html`<th scope="col">Before</th>`}</tr></thead>
    <tbody>${series.times.map((at, place) => html`<tr key=${at}>
      <th scope="row">${bucketName(at, span)}${place >= series.incompleteFrom && place < series.current.length ? ' (so far)' : ''}</th>
      <td>${series.current[place] === undefined ? '–' : figure(series.current[place], metric)}</td>
      ${compared && html`<td>${series.previous[place] === undefined || series.previous[place] === null ? '–' : figure(/** @type {number} */ (series.previous[place]), metric)}</td>`}
    </tr>`)}</tbody>
  </table>`;
}
