/** What the page uses of preact; the vendored file has no types beside it. */
export function h(type: unknown, props: unknown, ...children: unknown[]): unknown;
export function render(tree: unknown, parent: Element): void;
