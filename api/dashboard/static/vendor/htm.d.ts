/** What the page uses of htm. */
declare const htm: {
  bind(h: (type: unknown, props: unknown, ...children: unknown[]) => unknown): (strings: TemplateStringsArray, ...values: any[]) => any;
};
export default htm;
