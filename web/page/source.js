// Where frames come from: a camera, the screen, or a video file.

export class Source extends EventTarget {
  video = document.createElement("video");
  #stream = null;
  #address = null;
  kind = "camera";

  constructor() {
    super();
    this.video.muted = true;
    this.video.playsInline = true;
    this.video.loop = true;
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.#list());
  }

  get isPlaying() {
    // A stream that ended leaves its last picture behind.
    return this.video.readyState >= 2 && this.video.videoWidth > 0 && this.#stream?.active !== false;
  }

  async camera(deviceId = "") {
    if (!navigator.mediaDevices?.getUserMedia) {
      this.#fail("The browser gives this page no camera", "Open it at localhost, or over https; a video file works here too.");
      return;
    }
    const video = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
    if (deviceId) video.deviceId = { exact: deviceId };
    else video.facingMode = "user";
    try {
      await this.#play(await navigator.mediaDevices.getUserMedia({ video, audio: false }), "camera");
      await this.#list();
    } catch (error) {
      const [title, hint] = {
        NotAllowedError: ["The camera was not allowed", "Allow it in the browser's address bar, or take the screen or a file."],
        NotFoundError: ["No camera was found", "Plug one in, or take the screen or a video file."],
        NotReadableError: ["The camera is busy", "Another program may have it. Close that one and try again."],
        OverconstrainedError: ["That camera is gone", "Choose another one."],
      }[error.name] ?? ["The camera does not start", error.message];
      this.#fail(title, hint);
    }
  }

  async screen() {
    if (!navigator.mediaDevices?.getDisplayMedia) {
      this.#fail("This browser does not share screens", "Take the camera or a video file.");
      return;
    }
    try {
      await this.#play(await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: 30 }, audio: false }), "screen");
    } catch (error) {
      if (error.name !== "NotAllowedError") this.#fail("The screen is not shared", error.message);
    }
  }

  async file(file) {
    this.#stop();
    this.#address = URL.createObjectURL(file);
    this.video.srcObject = null;
    this.video.src = this.#address;
    this.kind = "file";
    try {
      await this.video.play();
      this.#tell("playing", {});
    } catch {
      this.#fail("This browser cannot play that file", "An MP4 (H.264) or WebM plays nearly everywhere.");
    }
  }

  async #play(stream, kind) {
    this.#stop();
    this.#stream = stream;
    this.kind = kind;
    const [track] = stream.getVideoTracks();
    track.addEventListener("ended", () => {
      if (this.#stream === stream) this.#fail(kind === "screen" ? "The screen is no longer shared" : "The camera went away", "Choose a source again.");
    });
    this.video.removeAttribute("src");
    this.video.srcObject = stream;
    await this.video.play();
    this.#tell("playing", { deviceId: track.getSettings?.().deviceId });
  }

  #stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = null;
  }

  async #list() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    this.#tell("devices", { cameras: devices.filter(({ kind }) => kind === "videoinput") });
  }

  // Calls `each` for every new frame, with the time at which it was captured.
  frames(each) {
    const next = (now, metadata) => {
      each(metadata?.captureTime ?? now);
      schedule();
    };
    // Where the browser does not tell of frames, the screen's rate is fast enough.
    const schedule = () => (this.video.requestVideoFrameCallback ? this.video.requestVideoFrameCallback(next) : requestAnimationFrame(next));
    schedule();
  }

  #fail(title, hint) {
    this.#tell("failed", { title, hint });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
