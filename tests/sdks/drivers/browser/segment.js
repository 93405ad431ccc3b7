// analytics.js 2 (analytics-next): it asks its settings at the gateway, which name the gateway as its API host.
window.scripts = ["@segment/analytics-next/dist/umd/index.js"];

window.drive = async ({ host, key, mode, calls }) => {
  const settings = { writeKey: key, cdnURL: host };
  const delivery = mode === "batch" ? { strategy: "batching", config: { size: 10, timeout: 200 } } : undefined;
  const options = delivery ? { integrations: { "Segment.io": { deliveryStrategy: delivery } } } : {};
  const [sdk] = await AnalyticsNext.AnalyticsBrowser.load(settings, options);
  for (const call of calls) {
    const shared = { messageId: call.id, timestamp: call.timestamp ?? undefined, context: { locale: "de-CH" } };
    const { kind, properties } = call;
    if (kind === "identify") await sdk.identify(call.user, properties, shared);
    else if (kind === "track") await sdk.track(call.name, properties, shared);
    else if (kind === "page") await sdk.page("Docs", call.name, properties, shared);
    else if (kind === "screen") await sdk.screen("Docs", call.name, properties, shared);
    else if (kind === "group") await sdk.group(call.group, properties, shared);
    else await sdk.alias(call.user, call.previous, shared);
  }
};
