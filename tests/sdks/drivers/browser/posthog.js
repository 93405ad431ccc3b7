// PostHog's JavaScript SDK.
window.scripts = [];

window.drive = async ({ host, key, calls }) => {
  const posthog = (await import("/modules/posthog-js/dist/module.no-external.js")).default;
  await new Promise((loaded) =>
    posthog.init(key, {
      api_host: host,
      loaded,
      autocapture: false,
      capture_pageview: false,
      capture_pageleave: false,
      disable_session_recording: true,
      request_queue_config: { flush_interval_ms: 250 },
      rate_limiting: { events_per_second: 1000, events_burst_limit: 10_000 },
      opt_out_useragent_filter: true,
    }),
  );
  for (const call of calls) {
    const { kind, properties } = call;
    const options = call.timestamp ? { timestamp: new Date(call.timestamp) } : {};
    if (kind === "identify") posthog.identify(call.user, properties, {});
    else if (kind === "group") posthog.group("company", call.group, properties);
    else if (kind === "alias") posthog.alias(call.previous);
    else if (kind === "page") posthog.capture("$pageview", properties, options);
    else if (kind === "screen") posthog.capture("$screen", properties, options);
    else posthog.capture(call.name, properties, options);
  }
};
