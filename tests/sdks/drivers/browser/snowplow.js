// Snowplow's browser tracker.
window.scripts = ["@snowplow/browser-tracker/dist/index.umd.js"];

window.drive = async ({ host, key, mode, calls }) => {
  const snowplow = snowplowBrowserTracking;
  snowplow.newTracker("sp", host, {
    appId: key,
    eventMethod: mode === "get" ? "get" : "post",
    encodeBase64: mode === "base64",
    bufferSize: mode === "get" ? 1 : 10,
    plugins: [],
  });
  for (const call of calls) {
    const { kind, seq, name, group, properties } = call;
    const timestamp = call.timestamp ? { type: "ttm", value: Date.parse(call.timestamp) } : undefined;
    const context = [{ schema: "iglu:com.acme/ctx/jsonschema/1-0-0", data: { seq } }];
    const shared = { context, timestamp };
    snowplow.setUserId(call.user);
    if (kind === "track") {
      const event = { schema: "iglu:com.acme/event/jsonschema/1-0-0", data: { event: name, properties } };
      snowplow.trackSelfDescribingEvent({ event, ...shared });
    } else if (kind === "identify") {
      const event = { schema: "iglu:com.acme/identify/jsonschema/1-0-0", data: properties };
      snowplow.trackSelfDescribingEvent({ event, ...shared });
    } else if (kind === "page") snowplow.trackPageView({ title: name, ...shared });
    else if (kind === "screen") {
      const event = {
        schema: "iglu:com.snowplowanalytics.mobile/screen_view/jsonschema/1-0-0",
        data: { id: call.id, name },
      };
      snowplow.trackSelfDescribingEvent({ event, ...shared });
    } else {
      snowplow.trackStructEvent({ category: kind, action: "join", label: group, property: "seq", value: seq, ...shared });
    }
    if (seq % 10 === 9) snowplow.flushBuffer({});
  }
  window.again = () => snowplow.flushBuffer({});
};
