// The two pictures: side by side or with a divider, swapped or not.

const $ = (id) => document.getElementById(id);

export class View {
  stage = $("stage");
  input = $("input");
  output = $("output");
  #in = this.input.getContext("2d", { alpha: false });
  #out = this.output.getContext("2d", { alpha: false });
  size = { width: 256, height: 256 };
  isMirrored = true;

  constructor() {
    $("divider").addEventListener("input", ({ target }) => this.stage.style.setProperty("--wipe", `${target.value}%`));
  }

  resize(text) {
    const [width, height] = text.split("x").map(Number);
    if (!(width > 0 && height > 0) || (width === this.input.width && height === this.input.height)) return;
    this.size = { width, height };
    for (const canvas of [this.input, this.output]) Object.assign(canvas, { width, height });
  }

  // Draws the middle of a video, as much as covers the picture; people see themselves as in a mirror.
  drawInput(video) {
    const { width, height } = this.size;
    const scale = Math.max(width / video.videoWidth, height / video.videoHeight);
    const [w, h] = [video.videoWidth * scale, video.videoHeight * scale];
    this.#in.save();
    if (this.isMirrored) this.#in.setTransform(-1, 0, 0, 1, width, 0);
    this.#in.drawImage(video, (width - w) / 2, (height - h) / 2, w, h);
    this.#in.restore();
  }

  drawOutput(picture) {
    this.#out.drawImage(picture, 0, 0, this.output.width, this.output.height);
  }

  // Bypass: the output is the input.
  drawThrough() {
    this.drawOutput(this.input);
  }

  encoded() {
    return new Promise((done) => this.input.toBlob(done, "image/jpeg", 0.85));
  }

  wipe(isOn) {
    this.stage.dataset.layout = isOn ? "wipe" : "pair";
  }

  swap() {
    this.stage.dataset.swapped = this.stage.dataset.swapped !== "true";
  }

  async fullscreen() {
    if (document.fullscreenElement) await document.exitFullscreen();
    else await this.stage.requestFullscreen?.();
  }
}

// Something in place of a dead picture.
export function veil(title, hint = "", button = "", action = null) {
  // Screen readers tell of changes only in what was there before, and need not hear the same every second.
  const said = title ? `${title}. ${hint ?? ""}` : "";
  if ($("said").textContent !== said) $("said").textContent = said;
  $("veil").hidden = !title;
  $("veil-title").textContent = title ?? "";
  $("veil-hint").textContent = hint ?? "";
  $("veil-button").hidden = !button;
  $("veil-button").textContent = button;
  $("veil-button").onclick = action;
}
