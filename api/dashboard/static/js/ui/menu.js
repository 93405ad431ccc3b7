/** A button that opens a panel below itself. Esc, a click elsewhere or focus moving on closes it. */
import { useEffect, useRef, useState } from '../../vendor/preact-hooks.js';
import { html } from '../html.js';
import { Icon } from './icons.js';

/** @param {{label: any, name: string, children: (close: () => void) => any}} props */
export function Menu({ label, name, children }) {
  const [open, setOpen] = useState(false);
  const root = useRef(/** @type {HTMLElement | null} */ (null));
  const button = useRef(/** @type {HTMLButtonElement | null} */ (null));
  const close = () => {
    setOpen(false);
    button.current?.focus();
  };

  useEffect(() => {
    if (!open) return undefined;
    const within = root.current?.querySelector('[data-menu]');
    const first = within?.querySelector('[aria-checked="true"]') ?? within?.querySelector('button');
    /** @type {HTMLElement | null | undefined} */ (first)?.focus();
    const outside = (/** @type {Event} */ event) => {
      if (!root.current?.contains(/** @type {Node} */ (event.target))) setOpen(false);
    };
    addEventListener('pointerdown', outside);
    return () => removeEventListener('pointerdown', outside);
  }, [open]);

  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    if (!open) return;
    if (event.key === 'Escape') {
      event.preventDefault();
      event.stopPropagation();
      close();
    }
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') moveFocus(root.current, event);
  };
  const onFocusOut = (/** @type {FocusEvent} */ event) => {
    if (event.relatedTarget && !root.current?.contains(/** @type {Node} */ (event.relatedTarget))) setOpen(false);
  };

  return html`<div class="menu" ref=${root} onKeyDown=${onKeyDown} onFocusOut=${onFocusOut}>
    <button ref=${button} class="button" type="button" aria-expanded=${open} aria-haspopup="true" onClick=${() => setOpen(!open)}>
      <span class="sr">${name}: </span>${label}<${Icon} name="down" />
    </button>
    ${open && html`<div class="panel" data-menu>${children(close)}</div>`}
  </div>`;
}

/** @param {HTMLElement | null} root @param {KeyboardEvent} event */
function moveFocus(root, event) {
  const buttons = /** @type {HTMLElement[]} */ ([...(root?.querySelectorAll('[data-menu] button') ?? [])]);
  const at = buttons.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  if (at < 0) return;
  event.preventDefault();
  event.stopPropagation();
  buttons[(at + (event.key === 'ArrowDown' ? 1 : -1) + buttons.length) % buttons.length].focus();
}
