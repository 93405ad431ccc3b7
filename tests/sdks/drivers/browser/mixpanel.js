// Mixpanel's JavaScript SDK.
window.scripts = ["mixpanel-browser/dist/mixpanel.umd.js"];

window.drive = async ({ host, key, mode, calls }) => {
  mixpanel.init(key, {
    api_host: host,
    batch_requests: mode !== "single",
    batch_flush_interval_ms: 300,
    batch_size: 10,
    api_payload_format: mode === "json" ? "json" : "base64",
    track_pageview: false,
    ignore_dnt: true,
    opt_out_tracking_by_default: false,
  });
  for (const call of calls) {
    const { kind, properties } = call;
    if (kind === "identify") {
      mixpanel.identify(call.user);
      mixpanel.people.set(properties);
    } else if (kind === "group") mixpanel.get_group("company", call.group).set(properties);
    else if (kind === "alias") mixpanel.alias(call.user, call.previous);
    else {
      const time = call.timestamp ? { time: Date.parse(call.timestamp) / 1000 } : {};
      mixpanel.track(kind === "track" ? call.name : `${kind} ${call.name}`, { ...properties, ...time });
    }
  }
};
