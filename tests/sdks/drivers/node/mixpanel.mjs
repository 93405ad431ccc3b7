// Mixpanel's Node SDK: one request a call, or batches. Its import insists on HTTPS and cannot be tried here.
import Mixpanel from "mixpanel";
import { failed, moment, run, settled } from "./driver.mjs";

await run(async ({ host, key, mode, calls }) => {
  const { hostname, port } = new URL(host);
  const sdk = Mixpanel.init(key, { host: `${hostname}:${port}`, protocol: "http", keepAlive: false });
  const events = [];
  for (const call of calls) {
    const { properties, user } = call;
    if (call.kind === "identify") await settled((done) => sdk.people.set(user, properties, done));
    else if (call.kind === "group") await settled((done) => sdk.groups.set("company", call.group, properties, done));
    else if (call.kind === "alias") await settled((done) => sdk.alias(call.previous, user, done));
    else {
      const sent = { ...properties, distinct_id: user, $insert_id: call.id };
      const time = moment(call) ?? new Date();
      if (mode === "batch") events.push({ event: call.name, properties: { ...sent, time } });
      else await settled((done) => sdk.track(call.name, moment(call) ? { ...sent, time } : sent, done));
    }
  }
  if (events.length) await settled((done) => sdk.track_batch(events, { max_batch_size: 20 }, (e) => done(e?.[0])));
});
