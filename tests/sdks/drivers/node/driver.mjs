// What all Node drivers share: the task comes as JSON on stdin, what happened goes as JSON to stdout.
import { readFileSync } from "node:fs";

export const errors = [];

/** An SDK's error callback. */
export function failed(error) {
  if (error) errors.push(String(error.message ?? error).slice(0, 500));
}

/** `drive({host, key, mode, calls})` makes the calls and resolves when all is sent. */
export async function run(drive) {
  process.on("unhandledRejection", failed);
  const task = JSON.parse(readFileSync(0, "utf8"));
  await drive(task);
  process.stdout.write(JSON.stringify({ errors }) + "\n", () => process.exit(0));
}

/** The call's time as a Date, or undefined. */
export function moment(call) {
  return call.timestamp ? new Date(call.timestamp) : undefined;
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A method that ends in a callback, as a promise; an error is noted, not thrown. */
export function settled(start) {
  return new Promise((resolve) =>
    start((error) => {
      failed(error);
      resolve();
    }),
  );
}
