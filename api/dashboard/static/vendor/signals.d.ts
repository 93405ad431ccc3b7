/** What the page uses of @preact/signals. */
export interface Signal<T> {
  value: T;
  peek(): T;
}
export function signal<T>(initial: T): Signal<T>;
export function effect(run: () => void | (() => void)): () => void;
export function untracked<T>(run: () => T): T;
