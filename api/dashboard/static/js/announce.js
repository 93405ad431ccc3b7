/** What a screen reader is told, politely: the outcome of a choice, never the ticking of numbers. */
import { signal } from '../vendor/signals.js';

export const announcement = signal('');

/** @param {string} text */
export function announce(text) {
  // The same words twice are read once, so they must differ.
  announcement.value = text === announcement.value ? `${text}\u00a0` : text;
}
