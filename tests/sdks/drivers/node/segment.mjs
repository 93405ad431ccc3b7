// Segment's Node SDK.
import { Analytics } from "@segment/analytics-node";
import { failed, run } from "./driver.mjs";
import { make } from "./segment_calls.mjs";

await run(async ({ host, key, calls }) => {
  const sdk = new Analytics({ writeKey: key, host, flushAt: 20 });
  sdk.on("error", (error) => failed(error.reason ?? error.code));
  make(sdk, calls);
  await sdk.closeAndFlush({ timeout: 60_000 });
});
