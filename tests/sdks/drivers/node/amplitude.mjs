// Amplitude's Node SDK, to either of its two paths.
import * as amplitude from "@amplitude/analytics-node";
import { failed, run } from "./driver.mjs";

await run(async ({ host, key, mode, calls }) => {
  const serverUrl = `${host}/${mode === "batch" ? "batch" : "2/httpapi"}`;
  await amplitude.init(key, { serverUrl, useBatch: mode === "batch", flushQueueSize: 20, minIdLength: 1 }).promise;
  const sent = calls.map((call) => {
    const { properties, kind } = call;
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
  await amplitude.flush().promise;
  for (const { promise } of sent) {
    const { code, message } = await promise;
    if (code !== 200) failed(`${code} ${message}`);
  }
});
