/**
 * The one place that knows uPlot: a line over equal steps, the compared period under it, the running bucket dotted.
 * Colours come from the style sheet's custom properties, so that they follow the system's scheme.
 */
import uPlot from '../vendor/uplot.js';

/**
 * @typedef {object} ChartData
 * @property {number[]} current       one value per bucket; buckets that have not begun are left out at the end
 * @property {(number | null)[]} previous  by the same places; empty: no comparison
 * @property {number} buckets         how many places there are
 * @property {number} incompleteFrom  place of the first bucket that is not over; `buckets` where all are
 * @property {(place: number) => string} tick
 * @property {(value: number) => string} amount
 *
 * @typedef {object} Chart
 * @property {(data: ChartData) => void} set
 * @property {(place: number | null) => void} point  moves the cursor by keys
 * @property {() => void} destroy
 */

const TICK_WIDTH_PX = 76;

/**
 * @param {HTMLElement} host @param {(place: number | null, left: number, top: number) => void} onPoint
 * @returns {Chart}
 */
export function makeChart(host, onPoint) {
  /** @type {ChartData} */
  let data = { current: [], previous: [], buckets: 1, incompleteFrom: 1, tick: String, amount: String };
  const colour = () => {
    const style = getComputedStyle(host);
    const read = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    return { line: read('--accent'), fill: read('--chart-fill'), faint: read('--chart-faint'), fade: read('--chart-fade'), before: read('--chart-before'), grid: read('--chart-grid'), text: read('--muted'), card: read('--card') };
  };
  let colours = colour();
  const font = () => `${innerWidth < 600 ? 11 : 12}px "Inter", system-ui, sans-serif`;

  /** @type {import('../vendor/uplot.js').Options} */
  const options = {
    width: Math.max(host.clientWidth, 200), height: host.clientHeight || 260,
    padding: [10, 20, 0, 0],
    legend: { show: false },
    scales: {
      x: { time: false, range: () => [0, Math.max(data.buckets - 1, 1)] },
      y: { range: (_, min, max) => yRange(min, max) },
    },
    cursor: {
      y: false, drag: { setScale: false, x: false, y: false },
      points: { size: 9, width: 2, stroke: () => colours.card, fill: (_, series) => (series === 1 ? colours.before : colours.line) },
    },
    axes: [
      {
        font: font(), stroke: () => colours.text, grid: { show: false }, ticks: { show: false }, gap: 8, size: 32,
        splits: (u) => placeTicks(data.buckets, u.bbox.width / devicePixelRatio),
        values: (_, places) => places.map((place) => data.tick(place)),
      },
      {
        font: font(), stroke: () => colours.text, gap: 8,
        size: (_, values) => 14 + 7 * Math.max(1, ...(values ?? []).map((value) => value.length)),
        grid: { stroke: () => colours.grid, width: 1 }, ticks: { show: false },
        values: (_, values) => values.map((value) => data.amount(value)),
        space: 40,
      },
    ],
    series: [
      {},
      { stroke: () => colours.before, width: 1.5, dash: [5, 4], points: { show: false } },
      {
        stroke: () => colours.line, width: 2,
        fill: (u) => shade(u, colours.fill, colours.fade),
        points: { show: (u) => shownAlone(u.data[2]), size: 6, fill: () => colours.line },
      },
      {
        stroke: () => colours.line, width: 2, dash: [2, 4], fill: (u) => shade(u, colours.faint, colours.fade),
        points: { show: true, size: 7, width: 2, filter: (u) => lastOf(u.data[3]), fill: () => colours.card },
      },
    ],
    hooks: {
      setCursor: [
        (u) => {
          const place = u.cursor.idx;
          if (place === null || place === undefined || u.cursor.left === undefined || u.cursor.left < 0) return onPoint(null, 0, 0);
          const value = data.current[place] ?? data.previous[place] ?? 0;
          onPoint(place, u.valToPos(place, 'x') + u.bbox.left / devicePixelRatio, u.valToPos(value ?? 0, 'y') + u.bbox.top / devicePixelRatio);
        },
      ],
    },
  };
  const plot = new uPlot(options, [[0], [null], [null], [null]], host);

  const resize = new ResizeObserver(() => plot.setSize({ width: Math.max(host.clientWidth, 200), height: host.clientHeight || 260 }));
  resize.observe(host);
  const scheme = matchMedia('(prefers-color-scheme: dark)');
  const repaint = () => {
    colours = colour();
    plot.redraw(false, true);
  };
  scheme.addEventListener('change', repaint);
  void document.fonts.ready.then(() => plot.redraw(false, true));

  return {
    set(next) {
      data = next;
      plot.setData(/** @type {any} */ (columns(next)));
    },
    point(place) {
      if (place === null) return plot.setCursor({ left: -10, top: -10 });
      plot.setCursor({ left: plot.valToPos(place, 'x'), top: plot.bbox.height / devicePixelRatio / 2 });
    },
    destroy() {
      resize.disconnect();
      scheme.removeEventListener('change', repaint);
      plot.destroy();
    },
  };
}

/** The series that uPlot draws: places, compared, complete, and the dotted rest. @param {ChartData} data */
function columns({ current, previous, buckets, incompleteFrom }) {
  const places = Array.from({ length: buckets }, (_, place) => place);
  const dotted = current.length > incompleteFrom;
  return [
    places,
    places.map((place) => previous[place] ?? null),
    places.map((place) => (place < incompleteFrom ? current[place] ?? null : null)),
    places.map((place) => (dotted && place >= incompleteFrom - 1 ? current[place] ?? null : null)),
  ];
}

/** A shade that fades to the ground. @param {uPlot} u @param {string} from @param {string} to */
function shade(u, from, to) {
  const { top, height } = u.bbox;
  // Before its first layout the plot has no height, and a gradient of no length is an error.
  if (!(height > 0)) return to;
  const gradient = u.ctx.createLinearGradient(0, top, 0, top + height);
  gradient.addColorStop(0, from);
  gradient.addColorStop(1, to);
  return gradient;
}

/** @param {number | null} min @param {number | null} max @returns {[number, number]} */
function yRange(min, max) {
  const low = Math.min(min ?? 0, 0);
  const high = Math.max(max ?? 0, 0);
  if (low === 0 && high === 0) return [0, 4];
  const room = (high - low) * 0.08;
  return [low < 0 ? low - room : 0, high + room];
}

/** @param {number} buckets @param {number} width @returns {number[]} */
function placeTicks(buckets, width) {
  const most = Math.max(2, Math.floor(width / TICK_WIDTH_PX));
  const nice = [1, 2, 3, 4, 5, 6, 7, 10, 12, 14, 15, 24, 28, 30, 48, 72, 96, 120];
  const every = nice.find((n) => Math.ceil(buckets / n) <= most) ?? Math.ceil(buckets / most);
  return Array.from({ length: Math.ceil(buckets / every) }, (_, n) => n * every);
}

/** A single complete bucket has no line to be seen by. @param {ArrayLike<number | null | undefined>} values */
function shownAlone(values) {
  let found = 0;
  for (let place = 0; place < values.length && found < 2; place += 1) if (values[place] !== null) found += 1;
  return found === 1;
}

/** @param {ArrayLike<number | null | undefined>} values @returns {number[]} */
function lastOf(values) {
  for (let place = values.length - 1; place >= 0; place -= 1) if (values[place] !== null && values[place] !== undefined) return [place];
  return [];
}
