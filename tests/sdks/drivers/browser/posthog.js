// PostHog's JavaScript SDK: from npm, or as its HTML snippet loads it, from the host that takes the events.
window.scripts = [];

// What a snippet does: a list in the SDK's place that keeps calls, and a script that takes them over.
const byScript = (host) =>
  new Promise((ready, failed) => {
    const stub = Object.assign([], { _i: [], people: [], __SV: 1 });
    stub.init = (...given) => stub._i.push([...given, "posthog"]);
    window.posthog = stub;
    const script = document.createElement("script");
    script.crossOrigin = "anonymous";
    script.async = true;
    script.src = `${host}/static/array.js`;
    script.onerror = () => failed(new Error("the script did not load"));
    script.onload = () => ready(window.posthog);
    document.head.appendChild(script);
  });

window.drive = async ({ host, key, mode, calls }) => {
  const posthog =
    mode === "snippet"
      ? await byScript(host)
      : (await import("/modules/posthog-js/dist/module.no-external.js")).default;
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
