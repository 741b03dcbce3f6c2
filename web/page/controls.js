// Sliders and fields made from the schema of the parameters.

const FIRST = ["guidance", "cfg", "t-index", "control-scale", "preprocessor", "feedback", "seed", "similarity", "delta"];
const ELSEWHERE = ["prompt", "negative-prompt"];

export class Controls {
  #set;
  #fields = new Map();

  // `set(name, text)` is called when a person changes one.
  constructor(schema, set) {
    this.#set = set;
    const [main, more] = ["controls", "more"].map((id) => document.getElementById(id));
    main.replaceChildren();
    more.replaceChildren();
    const isShown = (name) => !ELSEWHERE.includes(name) && !schema.properties[name]["x-unused"];
    const names = Object.keys(schema.properties).filter(isShown);
    const first = FIRST.filter((name) => names.includes(name));
    for (const name of [...first, ...names.filter((name) => !first.includes(name))]) {
      const { row, show } = this.#control(name, schema.properties[name]);
      (first.includes(name) ? main : more).append(row);
      this.#fields.set(name, show);
      show(schema.properties[name].default);
    }
  }

  // What a person is typing is not written over, but for the names in `refused`.
  show(parameters, refused = {}) {
    for (const [name, text] of Object.entries(parameters)) this.#fields.get(name)?.(text, name in refused);
  }

  #control(name, property) {
    const row = element("div", { className: "control" });
    const label = element("label", { htmlFor: `p-${name}`, textContent: name.replaceAll("-", " ") + (property["x-unit"] ? ` (${property["x-unit"]})` : ""), title: property.description });
    row.append(label);
    if (!property["x-hot"]) {
      const output = element("output", { id: `p-${name}`, title: "fixed when the server starts" });
      row.dataset.fixed = "";
      row.append(output);
      return { row, show: (text) => (output.value = text) };
    }
    return { row, show: this.#field(name, property, row) };
  }

  #field(name, property, row) {
    const id = `p-${name}`;
    const set = (text) => this.#set(name, text);
    const kind = property["x-kind"];
    if (kind === "switch") {
      const box = element("input", { type: "checkbox", id, onchange: () => set(String(box.checked)) });
      row.append(box);
      return (text) => (box.checked = text === "true");
    }
    if (kind === "choice") {
      const select = element("select", { id, onchange: () => set(select.value) });
      select.append(...property.enum.map((word) => element("option", { value: word, textContent: word })));
      row.append(element("span"), select);
      return (text) => (select.value = text);
    }
    const isNumber = kind.endsWith("float") || kind.endsWith("integer");
    if (!isNumber) {
      const field = element("input", { type: "text", id, spellcheck: false, autocomplete: "off", onchange: () => set(field.value) });
      row.append(element("span"), field);
      return (text, isForced) => shown(field, text, isForced);
    }
    return this.#number(property, row, id, set);
  }

  #number(property, row, id, set) {
    const { minimum, maximum } = property;
    const isWhole = property["x-kind"].endsWith("integer");
    const none = { "optional-float": "off", "optional-integer": "auto" }[property["x-kind"]];
    const field = element("input", { type: "number", id, min: minimum, max: maximum, step: isWhole ? 1 : "any" });
    // A seed has up to twenty digits.
    field.classList.toggle("long", maximum > 1e9);
    const value = element("span", { className: "value" });
    const box = none && element("input", { type: "checkbox", title: `not ${none}`, ariaLabel: `${id.slice(2)} is not ${none}` });
    // A slider over a million values, or over all seeds, helps nobody.
    const slider = maximum - minimum <= 2000 && element("input", { type: "range", min: minimum, max: maximum, step: isWhole ? 1 : (maximum - minimum) / 400 || "any", tabIndex: -1, ariaHidden: true });
    const enable = (isOn) => [field, slider].forEach((input) => input && (input.disabled = !isOn));
    value.append(...[box, field].filter(Boolean));
    row.append(value, ...[slider].filter(Boolean));
    field.onchange = () => field.value !== "" && set(field.value);
    if (slider) slider.oninput = () => set((field.value = String(Number(Number(slider.value).toFixed(4)))));
    if (box) {
      box.onchange = () => {
        enable(box.checked);
        if (box.checked && field.value === "") field.value = String(isWhole ? minimum : Math.min(maximum, 0.98));
        set(box.checked ? field.value : none);
      };
    }
    return (text, isForced) => {
      const isOn = text !== none;
      if (box) box.checked = isOn;
      enable(isOn);
      if (!isOn) return;
      shown(field, text, isForced);
      if (slider) shown(slider, text, isForced);
    };
  }
}

// What a person is typing is not written over, unless it was refused.
export function shown(field, text, isForced = false) {
  if (isForced || document.activeElement !== field) field.value = text;
}

export function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}
