// Snowplow's Node tracker, by POST in batches or by GET.
import {
  buildPagePing,
  buildPageView,
  buildScreenView,
  buildSelfDescribingEvent,
  buildStructEvent,
  newTracker,
} from "@snowplow/node-tracker";
import { failed, run, sleep } from "./driver.mjs";

const WAIT_MS = 60_000;

await run(async ({ host, key, mode, calls }) => {
  let sent = 0;
  const tracker = newTracker(
    { namespace: "shop", appId: key, encodeBase64: mode === "base64" },
    {
      endpoint: host,
      eventMethod: mode === "get" ? "get" : "post",
      bufferSize: 20,
      onRequestSuccess: (batch) => (sent += batch.length),
      onRequestFailure: ({ status, message }) => status && failed(`${status} ${message}`),
    },
  );
  for (const call of calls) {
    tracker.setUserId(call.user);
    tracker.setDomainUserId(call.anonymous);
    const time = call.timestamp ? { type: "ttm", value: Date.parse(call.timestamp) } : undefined;
    const context = [{ schema: "iglu:com.acme/ctx/jsonschema/1-0-0", data: { seq: call.seq } }];
    tracker.track(build(call), context, time);
  }
  const deadline = Date.now() + WAIT_MS;
  while (sent < calls.length && Date.now() < deadline) {
    await tracker.flush();
    await sleep(200);
  }
});

function build({ kind, seq, name, id, group, properties }) {
  const pageUrl = `https://shop.example/p/${seq}?utm_source=mail`;
  const page = { pageUrl, pageTitle: name, referrer: "https://ref.example/" };
  if (kind === "track") {
    const data = { event: name, properties };
    return buildSelfDescribingEvent({ event: { schema: "iglu:com.acme/event/jsonschema/1-0-0", data } });
  }
  if (kind === "identify") {
    return buildSelfDescribingEvent({ event: { schema: "iglu:com.acme/identify/jsonschema/1-0-0", data: properties } });
  }
  if (kind === "page") return buildPageView(page);
  if (kind === "screen") return buildScreenView({ id, name });
  if (kind === "group") return buildStructEvent({ category: "group", action: "join", label: group, property: "seq", value: seq });
  return buildPagePing({ ...page, minXOffset: 0, maxXOffset: seq, minYOffset: 0, maxYOffset: seq });
}
