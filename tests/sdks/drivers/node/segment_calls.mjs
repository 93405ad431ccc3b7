// The calls of the Segment family: its Node SDKs differ in their clients, not in their methods.
import { moment } from "./driver.mjs";

/** All calls; `done()` gives the callback of one, if the SDK is to tell when it is through with it. */
export function make(sdk, calls, done = () => undefined) {
  for (const call of calls) {
    const shared = { timestamp: moment(call), messageId: call.id, context: { locale: "de-CH" } };
    const who = call.kind === "track" && call.seq % 4 === 2 ? { anonymousId: call.anonymous } : { userId: call.user };
    const properties = call.properties;
    if (call.kind === "identify") sdk.identify({ ...shared, ...who, traits: properties }, done());
    else if (call.kind === "track") sdk.track({ ...shared, ...who, event: call.name, properties }, done());
    else if (call.kind === "page") sdk.page({ ...shared, ...who, category: "Docs", name: call.name, properties }, done());
    else if (call.kind === "screen") sdk.screen({ ...shared, ...who, category: "Docs", name: call.name, properties }, done());
    else if (call.kind === "group") sdk.group({ ...shared, ...who, groupId: call.group, traits: properties }, done());
    else sdk.alias({ ...shared, ...who, previousId: call.previous }, done());
  }
}
