/**
 * The shapes that the page shares with the API and between its modules. Types only.
 *
 * @typedef {{name: string, type: string}} Column
 * @typedef {{title?: string, detail?: string, status?: number}} Problem
 * @typedef {{as_of: string | null, freshness_s: number | null, final_until: string | null, late_events: number | null, exact: boolean}} Meta
 * @typedef {{columns: Column[], rows: any[][], total_rows?: number, other?: any[] | null, next_cursor?: string | null,
 *   query?: any, meta: Meta, error?: Problem}} Answer
 * @typedef {[string, any, any?]} Filter  operator, dimension, values
 *
 * @typedef {'events' | 'users' | 'value'} MetricName
 * @typedef {'minute' | 'hour' | 'day' | 'week' | 'month'} Interval
 * @typedef {'realtime' | 'day' | '7d' | '30d' | '12mo' | 'custom'} Period
 * @typedef {'previous' | 'year' | 'none'} Compare
 * @typedef {'events' | 'pages' | 'sources' | 'places' | 'devices'} TableName
 *
 * @typedef {object} Route  everything that the URL says
 * @property {Period} period
 * @property {string} date      last day of the period as YYYY-MM-DD, '' for the running one
 * @property {string} from      first day of a custom period
 * @property {string} to        last day of a custom period
 * @property {Interval | ''} interval  '' for the period's usual one
 * @property {Compare} compare
 * @property {MetricName} metric
 * @property {Filter[]} filters
 * @property {Partial<Record<TableName, string>>} tabs  chosen dimension of a table, where not its first
 * @property {string[]} more    tables shown in full
 * @property {'chart' | 'table'} view
 * @property {boolean} paused   the live feed's state
 * @property {string} tz        IANA zone, '' for the browser's
 *
 * @typedef {object} Span  a route's period, resolved; epoch milliseconds, half-open
 * @property {number} from
 * @property {number} to        end of the whole period, may be in the future
 * @property {Interval} interval
 * @property {Interval[]} intervals  those that suit the period
 * @property {string} tz
 * @property {{from: number, to: number, sameUntil: number} | null} previous
 *   the compared period; `sameUntil` ends its part that is as long as what has passed of the current one
 * @property {boolean} running  whether now lies inside
 */
export {};
