// What this browser keeps of a person's choices.

export function stored(name, value) {
  try {
    if (value === undefined) return JSON.parse(localStorage.getItem(`livediffusion.${name}`));
    localStorage.setItem(`livediffusion.${name}`, JSON.stringify(value));
  } catch {
    // Private windows keep nothing: the page works without.
  }
  return null;
}

// The parameters that this person changed: they are asked for again when the server was away, and after a reload.
export class Wanted {
  values = stored("parameters") ?? {};
  // What a session begins with, as far as it can be changed.
  #begun = {};

  // A session begins with these.
  begin(parameters, schema) {
    const isHot = ([name]) => schema.properties[name]?.["x-hot"];
    this.#begun = Object.fromEntries(Object.entries(parameters).filter(isHot));
    // Another model may not know a parameter of before.
    this.#keep(Object.fromEntries(Object.entries(this.values).filter(isHot)));
  }

  change({ strength, ...changes }) {
    this.#keep({ ...this.values, ...changes });
  }

  // What the server refused is not asked for again; what was chosen before it and stays in force is.
  refused(inForce) {
    const values = { ...this.values };
    for (const [name, text] of Object.entries(inForce)) {
      if (text === null || text === this.#begun[name]) delete values[name];
      else if (name in values) values[name] = text;
    }
    this.#keep(values);
  }

  // Forgets all, and gives what leads from `parameters` back to what a session begins with.
  forget(parameters) {
    this.#keep({});
    return Object.fromEntries(Object.entries(this.#begun).filter(([name, text]) => parameters[name] !== text));
  }

  #keep(values) {
    this.values = values;
    stored("parameters", values);
  }
}
