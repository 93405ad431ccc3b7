/**
 * Asks the query API. One request carries all of a page's queries.
 * @typedef {import('./types.js').Answer} Answer
 */
import { credentials, renew } from './session.js';

/** A query that failed as a whole; `status` is 0 where no answer came. */
export class ApiError extends Error {
  /** @param {number} status @param {string} message @param {number} [retryAfterS] */
  constructor(status, message, retryAfterS = 0) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

const TIMEOUT_MS = 30_000;

/**
 * Answers in the order of the queries; one that failed has `error` and no rows.
 * @param {object[]} queries @param {AbortSignal} [signal] @returns {Promise<Answer[]>}
 */
export async function ask(queries, signal) {
  let response = await post(queries, signal);
  if (response.status === 401 && (await renew())) response = await post(queries, signal);
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new ApiError(response.status, problem.detail || problem.title || `The API answered ${response.status}.`, Number(response.headers.get('Retry-After')) || 0);
  }
  return (await response.json()).answers;
}

/** @param {object[]} queries @param {AbortSignal} [signal] */
async function post(queries, signal) {
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  try {
    return await fetch('/v1/query', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...credentials() },
      body: JSON.stringify({ queries }),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, limit.aborted ? 'The API took longer than 30 s.' : 'The API cannot be reached.');
  }
}
