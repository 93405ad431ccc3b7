// PostHog's Node SDK.
import { PostHog } from "posthog-node";
import { failed, moment, run } from "./driver.mjs";

await run(async ({ host, key, mode, calls }) => {
  const sdk = new PostHog(key, { host, flushAt: 20, disableCompression: mode !== "gzip", fetchRetryDelay: 200 });
  sdk.on("error", failed);
  for (const call of calls) {
    const shared = { distinctId: call.user, timestamp: moment(call), uuid: call.id };
    const { properties, kind, seq } = call;
    if (kind === "identify") {
      sdk.capture({ ...shared, event: "$identify", properties: { $set: properties, $anon_distinct_id: call.anonymous } });
    } else if (kind === "group") {
      sdk.groupIdentify({ groupType: "company", groupKey: call.group, properties, distinctId: call.user });
    } else if (kind === "alias") {
      // the same on the wire as Python's alias(previous_id, distinct_id)
      sdk.alias({ distinctId: call.previous, alias: call.user });
    } else if (kind === "page") {
      const url = `https://shop.example/p/${seq}`;
      sdk.capture({ ...shared, event: "$pageview", properties: { ...properties, $current_url: url } });
    } else {
      sdk.capture({ ...shared, event: kind === "screen" ? "$screen" : call.name, properties });
    }
  }
  await sdk.shutdown(60_000);
});
