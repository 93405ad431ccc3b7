// CloudEvents' JavaScript SDK, which makes the messages; fetch posts them, as the SDK's own examples have it.
import { CloudEvent, HTTP } from "cloudevents";
import { failed, run } from "./driver.mjs";

await run(async ({ host, key, mode, calls }) => {
  const basic = `Basic ${Buffer.from(`${key}:`).toString("base64")}`;
  const post = async ({ headers, body }) => {
    try {
      const options = { method: "POST", headers: { ...headers, Authorization: basic }, body };
      const answer = await fetch(`${host}/v1/cloudevents`, options);
      if (answer.status !== 200) failed(`${answer.status} ${await answer.text()}`);
    } catch (error) {
      failed(error);
    }
  };
  const made = calls.map((call) => {
    const data = { event: call.name, properties: call.properties };
    const time = call.timestamp ?? undefined;
    const attributes = { id: call.id, source: "/shop/orders", type: `com.acme.${call.kind}`, subject: call.user };
    const event = new CloudEvent({ ...attributes, datacontenttype: "application/json", data, ...(time && { time }) });
    return mode === "binary" ? HTTP.binary(event) : HTTP.structured(event);
  });
  if (mode !== "batch") for (const message of made) await post(message);
  else {
    const headers = { "content-type": "application/cloudevents-batch+json" };
    for (let at = 0; at < made.length; at += 20) {
      await post({ headers, body: `[${made.slice(at, at + 20).map(({ body }) => body).join()}]` });
    }
  }
});
