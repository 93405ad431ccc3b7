// Segment's Node SDK before it was renamed (analytics-node 6).
import Analytics from "analytics-node";
import { failed, run, settled } from "./driver.mjs";
import { make } from "./segment_calls.mjs";

await run(async ({ host, key, calls }) => {
  const sdk = new Analytics(key, { host, flushAt: 100, errorHandler: failed });
  const through = [];
  make(sdk, calls, () => {
    let done;
    through.push(settled((callback) => (done = callback)));
    return done;
  });
  await settled((done) => sdk.flush(done));
  await Promise.all(through);
});
