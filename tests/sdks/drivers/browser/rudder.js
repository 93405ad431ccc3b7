// RudderStack's JavaScript SDK, with its plugins in the bundle.
window.scripts = ["@rudderstack/analytics-js/dist/npm/modern/bundled/umd/index.js"];

window.drive = async ({ host, key, mode, calls }) => {
  const sdk = new rudderanalytics.RudderAnalytics();
  const batch = mode === "batch" ? { batch: { enabled: true, maxItems: 10, flushInterval: 200 } } : {};
  sdk.load(key, host, { configUrl: host, queueOptions: { minRetryDelay: 100, backoffFactor: 1.5, ...batch } });
  await new Promise((resolve) => sdk.ready(resolve));
  for (const call of calls) {
    const options = call.timestamp ? { originalTimestamp: call.timestamp } : {};
    const { kind, properties } = call;
    if (kind === "identify") sdk.identify(call.user, properties, options);
    else if (kind === "track") sdk.track(call.name, properties, options);
    else if (kind === "page" || kind === "screen") sdk.page("Docs", call.name, properties, options);
    else if (kind === "group") sdk.group(call.group, properties, options);
    else sdk.alias(call.user, call.previous, options);
  }
};
