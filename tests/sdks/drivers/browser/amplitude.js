// Amplitude's JavaScript SDK.
window.scripts = ["@amplitude/analytics-browser/lib/scripts/amplitude-min.js"];

window.drive = async ({ host, key, calls }) => {
  const init = amplitude.init(key, undefined, {
    serverUrl: `${host}/2/httpapi`,
    defaultTracking: false,
    autocapture: false,
    remoteConfig: { fetchRemoteConfig: false },
    fetchRemoteConfig: false,
    flushIntervalMillis: 200,
    flushQueueSize: 10,
    minIdLength: 1,
  });
  await init.promise;
  const sent = calls.map((call) => {
    const { kind, properties } = call;
    const options = { user_id: call.user, device_id: call.anonymous, insert_id: call.id };
    if (call.timestamp) options.time = Date.parse(call.timestamp);
    if (kind === "identify") {
      const identify = new amplitude.Identify();
      for (const [name, value] of Object.entries(properties)) identify.set(name, value);
      return amplitude.identify(identify, options);
    }
    if (kind === "group") {
      const identify = new amplitude.Identify().set("seq", call.seq).set("text", properties.text);
      return amplitude.groupIdentify("company", call.group, identify, options);
    }
    if (kind === "alias") {
      const revenue = new amplitude.Revenue().setProductId("SKU-1").setPrice(properties.price).setQuantity(2);
      return amplitude.revenue(revenue.setEventProperties({ seq: call.seq }), options);
    }
    return amplitude.track(call.name, properties, options);
  });
  const answers = await Promise.all(sent.map(({ promise }) => promise));
  return answers.filter(({ code }) => code !== 200).map(({ code, message }) => `${code} ${message}`);
};
