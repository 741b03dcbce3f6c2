// The page: a source, a connection, two pictures and what steers them.

import { Connection } from "./connection.js";
import { Controls, shown } from "./controls.js";
import { Wanted, stored } from "./kept.js";
import { keys } from "./keys.js";
import { Presets } from "./presets.js";
import { Recorder, download, png } from "./snapshot.js";
import { Source } from "./source.js";
import { View, veil } from "./view.js";

const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token");
const connection = new Connection(token);
const [source, view, recorder] = [new Source(), new View(), new Recorder()];
// Milliseconds without typing before a prompt is sent.
const SETTLED = 300;

// Read by tests.
const seen = { state: "connecting", session: "", pictures: 0, drops: 0, parameters: {}, latencyMs: 0 };
window.__livediffusion = seen;

let parameters = {};
// Those of the picture that is shown; null when nothing is painted there.
let drawn = null;
const wanted = new Wanted();
let [isFrozen, isBypassed, isEncoding, keepsSeed] = [false, false, false, true];
let [controls, presets, hasThumbnails, times] = [null, null, false, []];

async function ask(path) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(`api/v1/${path}`, { headers });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? answer.statusText);
  return answer.json();
}

function set(changes) {
  wanted.change(changes);
  connection.say({ type: "set", parameters: changes });
}

function state(name, text) {
  seen.state = name;
  $("state").dataset.state = name;
  $("state").textContent = text;
}

let messageTimer = 0;
function message(text, hint) {
  $("message").hidden = !text;
  $("message").textContent = hint ? `${text}: ${hint}` : text;
  clearTimeout(messageTimer);
  messageTimer = setTimeout(() => ($("message").hidden = true), 8000);
}

// What the server has. What a person is typing is not written over, but for the names in `refused`.
function show(values, refused = {}) {
  parameters = values;
  seen.parameters = values;
  for (const id of ["prompt", "negative-prompt"]) shown($(id), values[id], id in refused);
  $("negative-idle").hidden = ["full", "initialize"].includes(values.cfg) && Number(values.guidance) > 1;
  controls?.show(values, refused);
  presets?.mark(values.prompt);
  showStrength();
}

// The first step of the list says how much noise there is: index 0 is all of it.
function strength() {
  return 1 - Number(parameters["t-index"]?.split(",")[0] ?? 0) / Math.max(1, Number(parameters.steps ?? 50) - 1);
}

function showStrength() {
  $("strength-value").value = strength().toFixed(2);
  if (document.activeElement !== $("strength")) $("strength").value = strength();
}

let isStrengthMoved = false;
function setStrength(value) {
  isStrengthMoved = true;
  connection.say({ type: "set", parameters: { strength: String(Math.min(1, Math.max(0, value))) } });
}

const STARTING = ["Starting the camera", "The browser may ask whether this page may use it. The pictures go to this server only."];
// Why there is no picture to send, if there is none.
let trouble = null;

// Shows the pictures, or what keeps this person's own from being there. The line and a server that is away come first.
function unveil() {
  if (!connection.isLive) return;
  if (trouble) veil(trouble.title, trouble.hint, "Try the camera again", () => source.camera($("device").value));
  else if (source.isPlaying) veil(null);
  else veil(...STARTING);
}

// Frames: captured when one may be sent, so that none waits.
async function capture(time) {
  if (!source.isPlaying || isFrozen) return;
  view.drawInput(source.video);
  if (isBypassed) {
    view.drawThrough();
    drawn = null;
  }
  if (isBypassed || isEncoding || !connection.isReady) return;
  isEncoding = true;
  try {
    const blob = await view.encoded();
    if (blob) connection.frame(await blob.arrayBuffer(), time);
  } finally {
    isEncoding = false;
  }
}

connection.addEventListener("picture", async ({ detail }) => {
  try {
    const bitmap = await createImageBitmap(detail.jpeg);
    if (!isFrozen && !isBypassed) {
      view.drawOutput(bitmap);
      drawn = parameters;
    }
    bitmap.close();
  } finally {
    detail.done();
  }
  const now = performance.now();
  seen.pictures++;
  seen.latencyMs = now - detail.time;
  times = [...times.filter((time) => now - time < 2000), now];
  $("fps").textContent = times.length > 1 ? (((times.length - 1) * 1000) / (now - times[0])).toFixed(0) : "–";
  $("delay").textContent = `${Math.max(0, seen.latencyMs).toFixed(0)} ms`;
  if (!$("veil").hidden) unveil();
  if (!hasThumbnails && seen.pictures > 5) askThumbnails();
});

function askThumbnails() {
  hasThumbnails = true;
  connection.say({ type: "thumbnails" });
}

connection.addEventListener("dropped", () => ($("dropped").textContent = String(++seen.drops)));
connection.addEventListener("thumbnail", ({ detail }) => presets?.thumbnail(detail.place, detail.jpeg));
connection.addEventListener("error", ({ detail }) => {
  message(detail.message, detail.hint);
  const { refused = {} } = detail;
  wanted.refused(refused);
  const inForce = Object.entries(refused).filter(([, text]) => text !== null);
  show({ ...parameters, ...Object.fromEntries(inForce) }, refused);
});
connection.addEventListener("quality", ({ detail }) => {
  const steps = detail.steps === 1 ? "1 step" : `${detail.steps} steps`;
  state("live", `${seen.model}, held at ${detail.size} in ${steps}`);
});
// Models take some dozens of words.
function unused(note, text) {
  note.hidden = !text;
  note.textContent = text ? `Too long for the model, which does not see: “${text.length > 200 ? `${text.slice(0, 199)}…` : text}”` : "";
}
connection.addEventListener("unused", ({ detail }) => {
  unused($("prompt-unused"), detail.prompt);
  unused($("negative-unused"), detail.negative);
});
connection.addEventListener("waiting", ({ detail }) => {
  state("waiting", `in line, number ${detail.position}`);
  const before = detail.position === 1 ? "You are next." : `${detail.position - 1} before you.`;
  const painted = detail.sessions === 1 ? "One person is" : `${detail.sessions} people are`;
  veil("All places are taken", `${before} ${painted} painted at a time; the page goes on by itself.`);
});
connection.addEventListener("away", ({ detail }) => {
  state("away", "the server is away");
  veil("The server is away", `${detail.reason || "The connection was lost"}. Trying again in ${Math.ceil(detail.pause / 1000)} s; your settings are kept.`);
});
connection.addEventListener("parameters", ({ detail }) => {
  view.resize(detail.size);
  if (isStrengthMoved) wanted.change({ "t-index": detail.parameters["t-index"] });
  isStrengthMoved = false;
  show(detail.parameters);
});
connection.addEventListener("hello", async ({ detail }) => {
  unused($("prompt-unused"), "");
  unused($("negative-unused"), "");
  seen.session = detail.session;
  view.resize(detail.size);
  hasThumbnails = false;
  seen.model = `${detail.model} on ${detail.provider} ${detail.precision}`;
  state("live", seen.model);
  unveil();
  parameters = detail.parameters;
  try {
    const [schema, list] = await Promise.all([ask("schema"), ask("presets")]);
    controls = new Controls(schema, (name, text) => set({ [name]: text }));
    presets = new Presets(list, takePreset);
    wanted.begin(detail.parameters, schema);
  } catch (error) {
    message("The parameters could not be read", error.message);
  }
  show(parameters);
  // One that may no longer be must not take the others with it.
  if (Object.keys(wanted.values).length) connection.say({ type: "set", parameters: wanted.values, each: true });
});

function takePreset(preset) {
  const seed = keepsSeed ? {} : { seed: randomSeed() };
  set({ ...preset.parameters, ...seed, prompt: preset.prompt });
  $("prompt").value = preset.prompt;
}

function randomSeed() {
  return String(crypto.getRandomValues(new Uint32Array(1))[0]);
}

function press(id, isOn) {
  $(id).setAttribute("aria-pressed", String(isOn));
}

// Settings.
for (const id of ["prompt", "negative-prompt"]) {
  let timer = 0;
  $(id).addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => set({ [id]: $(id).value }), SETTLED);
  });
}
$("strength").addEventListener("input", ({ target }) => setStrength(Number(target.value)));
$("dice").onclick = () => set({ seed: randomSeed() });
$("defaults").onclick = () => {
  isStrengthMoved = false;
  connection.say({ type: "set", parameters: wanted.forget(parameters) });
};
$("lock").onclick = () => press("lock", (keepsSeed = !keepsSeed));
$("refresh").onclick = askThumbnails;
$("theme").onclick = () => {
  const isLight = getComputedStyle(document.documentElement).colorScheme === "light";
  document.documentElement.dataset.theme = isLight ? "dark" : "light";
  stored("theme", document.documentElement.dataset.theme);
};
const theme = stored("theme");
if (theme) document.documentElement.dataset.theme = theme;

// Sources.
source.addEventListener("playing", ({ detail }) => {
  view.isMirrored = source.kind === "camera";
  trouble = null;
  unveil();
  if (source.kind === "camera") {
    if (detail.deviceId) $("device").value = detail.deviceId;
    stored("device", detail.deviceId ?? "");
  }
  showKind();
});
source.addEventListener("failed", ({ detail }) => {
  // Another source that goes on is not hidden.
  if (source.isPlaying) {
    message(detail.title, detail.hint);
    return;
  }
  trouble = detail;
  unveil();
  showKind();
});

function showKind() {
  for (const kind of ["camera", "screen", "file"]) press(kind, source.isPlaying && source.kind === kind);
  $("input-caption").textContent = { camera: "you", screen: "screen", file: "video" }[source.kind];
}

source.addEventListener("devices", ({ detail }) => {
  const { value } = $("device");
  $("device").replaceChildren(...detail.cameras.map((camera, place) => new Option(camera.label || `Camera ${place + 1}`, camera.deviceId)));
  // With one camera there is nothing to choose, and choosing it again would be no change.
  $("devices").hidden = detail.cameras.length < 2;
  $("device").value = detail.cameras.some(({ deviceId }) => deviceId === value) ? value : (detail.cameras[0]?.deviceId ?? "");
});
$("device").onchange = ({ target }) => source.camera(target.value);
$("camera").onclick = () => source.camera($("device").value);
$("screen").onclick = () => source.screen();
$("file").onclick = () => $("file-input").click();
$("file-input").onchange = ({ target }) => {
  if (target.files[0]) source.file(target.files[0]);
  // The same file again is a change, too.
  target.value = "";
};

// The bar.
const actions = {
  freeze: () => press("freeze", (isFrozen = !isFrozen)),
  bypass: () => press("bypass", (isBypassed = !isBypassed)),
  snapshot: async () => download(await png(view.output, drawn), "png"),
  record: () => {
    try {
      press("record", recorder.toggle(view.output));
    } catch (error) {
      message("No recording", error.message);
    }
  },
  wipe: () => {
    const isOn = view.stage.dataset.layout !== "wipe";
    view.wipe(isOn);
    press("wipe", isOn);
  },
  swap: () => view.swap(),
  fullscreen: () => view.fullscreen(),
};
for (const [id, action] of Object.entries(actions)) $(id).onclick = action;
keys([
  [" ", "freeze", actions.freeze],
  ["b", "bypass: show the camera", actions.bypass],
  ["s", "snapshot with its parameters", actions.snapshot],
  ["r", "record the painted picture", actions.record],
  ["w", "wipe: one over the other", actions.wipe],
  ["x", "swap the pictures", actions.swap],
  ["f", "full screen", actions.fullscreen],
  ["1–9", "styles", (key) => presets?.list[key - 1] && takePreset(presets.list[key - 1])],
  ["[", "less strength", () => setStrength(strength() - 0.04)],
  ["]", "more strength", () => setStrength(strength() + 0.04)],
]);

source.frames(capture);
// A hidden tab gets no frames; when it is seen again, a stopped video goes on.
document.addEventListener("visibilitychange", () => !document.hidden && source.video.srcObject && source.video.play().catch(() => {}));
veil(...STARTING);
source.camera(stored("device") ?? "");
connection.open();
