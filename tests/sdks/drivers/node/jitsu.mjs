// jitsu's JavaScript SDK, in Node.
import { jitsuAnalytics } from "@jitsu/js";
import { failed, run, sleep } from "./driver.mjs";

await run(async ({ host, key, calls }) => {
  const sdk = jitsuAnalytics({ host, writeKey: `jitsu:${key}`, fetchTimeoutMs: 10_000 });
  let user = "";
  for (const call of calls) {
    try {
      if (call.kind === "identify") await sdk.identify((user = call.user), call.properties);
      else if (call.kind === "track") await sdk.track(call.name, call.properties);
      else if (call.kind === "page" || call.kind === "screen") await sdk.page({ name: call.name, ...call.properties });
      else if (call.kind === "group") await sdk.group(call.group, call.properties);
    } catch (error) {
      failed(error);
    }
  }
  await sleep(1000);
});
