/**
 * Who is looking: the exchange of a one-time code for a cookie that scripts cannot read, its renewal, and a pasted
 * token, which is held in this module's memory only and is gone with the page.
 */
import { signal } from '../vendor/signals.js';

/**
 * @typedef {{customer_id: number, name: string | null}} Customer
 * @typedef {{state: 'checking' | 'out' | 'in', reason: string, customer: Customer | null, ingestUrl: string}} Session
 */

/** @type {import('../vendor/signals.js').Signal<Session>} */
export const session = signal(/** @type {Session} */ ({ state: 'checking', reason: '', customer: null, ingestUrl: '' }));

// A session is renewed this long before it ends; the server's is at most 15 minutes.
const RENEW_BEFORE_MS = 120_000;
const RENEW_AT_LEAST_MS = 20_000;
// A longer delay overflows setTimeout and would fire at once.
const RENEW_AT_MOST_MS = 12 * 3_600_000;

// That a cookie may be there, so that a first visit asks for no session and gets no 401. Nothing secret.
const VISITED = 'headrace-visited';

let token = '';
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
/** @type {Promise<boolean> | null} */
let renewing = null;

/** Headers that a request must carry beside the cookie. @returns {Record<string, string>} */
export function credentials() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Whether a pasted token is used; an EventSource cannot send one. */
export function usesToken() {
  return token !== '';
}

/** Signs in by the URL's code, where it has one, else by the cookie that an earlier visit left. */
export async function begin() {
  const code = /^#code=(.+)$/.exec(location.hash)?.[1];
  if (!code) return void (localStorage.getItem(VISITED) ? await renew() : signOut(''));
  // Before the exchange, so that the code is in no history entry whatever comes of it.
  history.replaceState(null, '', location.pathname + location.search);
  try {
    const response = await fetch('/v1/session', {
      method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ code: decodeURIComponent(code) }),
    });
    if (response.ok) return accept(await response.json());
  } catch {
    return unreachable();
  }
  // The code may have been used by this very browser, whose cookie is still good.
  if (!(await renew())) signOut('This link was already used or is too old.');
}

/** Uses a pasted token. @param {string} pasted */
export async function useToken(pasted) {
  token = pasted.trim();
  session.value = { ...session.value, state: 'checking', reason: '' };
  if (!(await renew())) {
    token = '';
    signOut('The API does not accept this token.');
  }
}

/** Renews the session; false where there is none to renew. One request at a time, whoever asks. */
export function renew() {
  renewing ??= requestRenewal().finally(() => {
    renewing = null;
  });
  return renewing;
}

async function requestRenewal() {
  try {
    const response = await fetch('/v1/session/refresh', { method: 'POST', headers: credentials() });
    if (response.ok) {
      accept(await response.json());
      return true;
    }
    if (response.status === 401 || response.status === 403) {
      signOut(session.value.state === 'in' ? 'The session has ended.' : '');
      return false;
    }
  } catch {
    // The network is away: the live badge says so, and a session that runs is tried again below.
  }
  if (session.value.state === 'in') {
    schedule(RENEW_AT_LEAST_MS);
    return true;
  }
  unreachable();
  return false;
}

/** Ends the session on the server too. */
export async function leave() {
  const headers = credentials();
  signOut('You have signed out.');
  await fetch('/v1/session', { method: 'DELETE', headers }).catch(() => {});
}

/** @param {{expires_at: string, customer: Customer | null, ingest_url?: string | null}} answer */
function accept(answer) {
  if (!answer.customer) return signOut('This is an administrator\'s access, which sees no customer\'s numbers. Use a read token.');
  if (!token) localStorage.setItem(VISITED, '1');
  session.value = { state: 'in', reason: '', customer: answer.customer, ingestUrl: answer.ingest_url ?? '' };
  schedule(Date.parse(answer.expires_at) - Date.now() - RENEW_BEFORE_MS);
}

/** @param {number} delayMs */
function schedule(delayMs) {
  clearTimeout(timer);
  timer = setTimeout(renew, Math.min(Math.max(delayMs, RENEW_AT_LEAST_MS), RENEW_AT_MOST_MS));
}

/** Not signed out: a reload tries the cookie again. */
function unreachable() {
  session.value = { ...session.value, state: 'out', reason: 'The API did not answer. Is it running?' };
}

/** @param {string} reason */
function signOut(reason) {
  localStorage.removeItem(VISITED);
  clearTimeout(timer);
  token = '';
  session.value = { state: 'out', reason, customer: null, ingestUrl: '' };
}
