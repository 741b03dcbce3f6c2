// Shortcuts, and the sheet that lists them.

import { element } from "./controls.js";

export function keys(actions) {
  const sheet = document.getElementById("sheet");
  const list = [...actions, ["?", "this sheet", () => sheet.showModal()]];
  document.getElementById("keys").replaceChildren(
    ...list.flatMap(([key, what]) => [element("dt", { textContent: key === " " ? "space" : key }), element("dd", { textContent: what })]),
  );
  document.getElementById("help").onclick = () => sheet.showModal();
  addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("textarea, select, input:not([type=range], [type=checkbox]), dialog");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    // A focused button is pressed by the space bar itself.
    if (event.key === " " && event.target.closest?.("button, summary, input")) return;
    // With Caps Lock or Shift a letter is the same key.
    const pressed = event.key?.toLowerCase();
    const found = list.find(([key]) => (key === "1–9" ? /^[1-9]$/.test(pressed) : key === pressed));
    if (!found) return;
    event.preventDefault();
    found[2](pressed);
  });
}
