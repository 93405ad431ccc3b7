// RudderStack's Node SDK.
import RudderAnalytics from "@rudderstack/rudder-sdk-node";
import { failed, run, settled } from "./driver.mjs";
import { make } from "./segment_calls.mjs";

await run(async ({ host, key, mode, calls }) => {
  const Client = RudderAnalytics.default ?? RudderAnalytics;
  const sdk = new Client(key, { dataPlaneUrl: host, flushAt: 100, gzip: mode === "gzip", errorHandler: failed });
  const through = [];
  make(sdk, calls, () => {
    let done;
    through.push(settled((callback) => (done = callback)));
    return done;
  });
  await settled((done) => sdk.flush(done));
  await Promise.all(through);
});
