// Styles to choose from, each shown as the viewer's own frame.

import { element } from "./controls.js";

export class Presets {
  #buttons = [];
  #images = [];
  list = [];

  // `take(preset)` is called when a person chooses one.
  constructor(list, take) {
    this.list = list;
    const box = document.getElementById("presets");
    this.#buttons = list.map((preset, place) => {
      const image = element("img", { alt: "", width: 76, height: 76 });
      image.hidden = true;
      const title = place < 9 ? `${preset.prompt} (${place + 1})` : preset.prompt;
      const button = element("button", { type: "button", title, onclick: () => take(preset) });
      button.append(image, element("span", { textContent: preset.name.replaceAll("-", " ") }));
      button.setAttribute("aria-pressed", "false");
      this.#images.push(image);
      return button;
    });
    box.replaceChildren(...this.#buttons);
    document.getElementById("refresh").hidden = list.length === 0;
    box.parentElement.hidden = list.length === 0;
  }

  thumbnail(place, jpeg) {
    const image = this.#images[place];
    if (!image) return;
    if (image.src) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(jpeg);
    image.hidden = false;
  }

  mark(prompt) {
    this.list.forEach((preset, place) => this.#buttons[place].setAttribute("aria-pressed", String(preset.prompt === prompt)));
  }
}
