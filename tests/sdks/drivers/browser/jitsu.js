// jitsu's JavaScript SDK from npm; its ready-made script takes no host but the one that it came from.
window.scripts = [];

window.drive = async ({ host, key, calls }) => {
  const { jitsuAnalytics } = await import("/modules/@jitsu/js/dist/jitsu.es.js");
  const sdk = jitsuAnalytics({ host, writeKey: `jitsu:${key}` });
  for (const { kind, name, user, group, properties } of calls) {
    if (kind === "identify") await sdk.identify(user, properties);
    else if (kind === "track") await sdk.track(name, properties);
    else if (kind === "page" || kind === "screen") await sdk.page({ name, ...properties });
    else if (kind === "group") await sdk.group(group, properties);
  }
};
