/** What is shown without a session, and what is shown before the first event. */
import { useState } from '../../vendor/preact-hooks.js';
import { announce } from '../announce.js';
import { html } from '../html.js';
import { session, useToken } from '../session.js';
import { Icon } from './icons.js';

export function SignIn() {
  const [token, setToken] = useState('');
  const { reason, state } = session.value;
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (token.trim()) void useToken(token);
  };
  return html`<main class="gate">
    <img src="/static/icon.svg" alt="" width="44" height="44" />
    <h1>Open your dashboard</h1>
    ${reason && html`<p class="trouble" role="alert">${reason}</p>`}
    <p>The dashboard opens by a link that works once. <code>headrace up</code> prints one when it has started:</p>
    <${Copyable} text="headrace up --data ./headrace-data" what="command" />
    <form onSubmit=${submit}>
      <label for="token">Or paste a read token</label>
      <div class="field">
        <input id="token" type="password" autocomplete="off" spellcheck="false" value=${token} onInput=${(/** @type {any} */ e) => setToken(e.target.value)} />
        <button class="button strong" type="submit" disabled=${!token.trim() || state === 'checking'}>Open</button>
      </div>
      <p class="hint">It stays in this page's memory and is forgotten on reload.</p>
    </form>
  </main>`;
}

export function FirstEvent() {
  const url = session.value.ingestUrl || 'http://127.0.0.1:8080';
  const command = `curl ${url}/v1/batch \\
  -H 'Content-Type: application/json' \\
  -d '{"writeKey": "YOUR_WRITE_KEY", "batch": [
        {"type": "track", "event": "signup", "userId": "ada",
         "properties": {"plan": "pro", "value": 29.5}}]}'`;
  return html`<section class="card first" aria-label="Send the first event">
    <h2>Waiting for the first event</h2>
    <p>Nothing has arrived yet. Send one from a terminal, or point any Segment SDK at <code>${url}</code>. This page shows it as soon as it is counted.</p>
    <${Copyable} text=${command} what="command" />
    <p class="hint">The write key is in <code>credentials.json</code> of the data folder, or made by <code>headrace keys</code>.</p>
    <p class="waits"><span class="dot" aria-hidden="true"></span>Listening</p>
  </section>`;
}

/** @param {{text: string, what: string}} props */
function Copyable({ text, what }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      announce('The browser does not let this page copy. Select the text instead.');
      return;
    }
    setCopied(true);
    announce('Copied');
    setTimeout(() => setCopied(false), 2000);
  };
  return html`<div class="copyable">
    <pre tabindex="0" aria-label=${`The ${what}`}><code>${text}</code></pre>
    <button class="button quiet square" type="button" title="Copy" onClick=${copy}><${Icon} name=${copied ? 'check' : 'copy'} /><span class="sr">Copy the ${what}</span></button>
  </div>`;
}
