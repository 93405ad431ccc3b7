/**
 * An answer as a CSV file (RFC 4180), named after what it shows.
 * @typedef {import('./types.js').Answer} Answer
 */

/** @param {Answer} answer */
export function csv(answer) {
  const lines = [answer.columns.map((column) => column.name), ...answer.rows];
  return lines.map((line) => line.map(field).join(',')).join('\r\n') + '\r\n';
}

/** @param {any} value */
function field(value) {
  if (value === null || value === undefined) return '';
  if (typeof value === 'number') return String(value);
  let text = typeof value === 'object' ? JSON.stringify(value) : String(value);
  // A spreadsheet runs a text that begins like a formula; event names come from strangers.
  if (/^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** @param {string} name @param {string} text */
export function download(name, text) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'text/csv' }));
  link.download = name;
  link.click();
  // The download has its own hold on the data once it has begun.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
