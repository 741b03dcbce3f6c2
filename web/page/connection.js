// The WebSocket: frames out, pictures in, and coming back when the server was away.

const HEADER = 20;
const FRAME = 1, PICTURE = 2, THUMBNAIL = 3, DROPPED = 4, TAKEN = 5;
// Two keep the line busy while one is painted; a third would only be delay.
const UNANSWERED = 2;
// Milliseconds before the first attempt to come back, and the longest.
const FIRST_PAUSE = 500, LONGEST_PAUSE = 10000;

export class Connection extends EventTarget {
  #socket = null;
  #unanswered = new Map();
  #frames = 0n;
  #pause = FIRST_PAUSE;
  #timer = 0;
  isLive = false;

  constructor(token) {
    super();
    const url = new URL("api/v1/stream", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    url.search = token ? `?token=${encodeURIComponent(token)}` : "";
    this.url = url.href;
    // A network that is back is not waited for.
    addEventListener("online", () => this.#retryNow());
  }

  open() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.#text(data) : this.#binary(data));
    socket.onclose = ({ reason }) => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      this.isLive = false;
      this.#unanswered.clear();
      this.#tell("away", { reason, pause: this.#pause });
      this.#timer = setTimeout(() => this.open(), this.#pause);
      this.#pause = Math.min(this.#pause * 1.7, LONGEST_PAUSE);
    };
  }

  #retryNow() {
    if (this.#timer) this.open();
  }

  // Whether another frame may be sent now.
  get isReady() {
    return this.isLive && this.#unanswered.size < UNANSWERED && this.#socket?.bufferedAmount === 0;
  }

  // Sends an encoded frame that was captured at `time` (performance.now()).
  frame(encoded, time) {
    if (!this.isLive) return;
    const id = this.#frames++;
    const message = new Uint8Array(HEADER + encoded.byteLength);
    const view = new DataView(message.buffer);
    message.set([0x4c, 0x44, 1, FRAME]);
    view.setBigUint64(4, id, true);
    view.setBigUint64(12, BigInt(Math.round(time * 1000)), true);
    message.set(new Uint8Array(encoded), HEADER);
    this.#unanswered.set(id, time);
    this.#socket.send(message);
  }

  say(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #binary(data) {
    if (data.byteLength < HEADER) return;
    const view = new DataView(data);
    const kind = view.getUint8(3), id = view.getBigUint64(4, true);
    const time = Number(view.getBigUint64(12, true)) / 1000;
    if (kind === THUMBNAIL) {
      this.#tell("thumbnail", { place: Number(id), jpeg: new Blob([data.slice(HEADER)], { type: "image/jpeg" }) });
      return;
    }
    this.#unanswered.delete(id);
    if (kind === PICTURE) {
      const done = () => this.say({ type: "ack", id: Number(id) });
      this.#tell("picture", { id, time, jpeg: new Blob([data.slice(HEADER)], { type: "image/jpeg" }), done });
    } else if (kind === DROPPED) {
      this.#tell("dropped", { id });
    }
    if (kind === DROPPED || kind === PICTURE || kind === TAKEN) this.#tell("ready", {});
  }

  #text(data) {
    const message = JSON.parse(data);
    if (message.type === "hello") {
      this.isLive = true;
      this.#pause = FIRST_PAUSE;
    }
    this.#tell(message.type, message);
    if (message.type === "hello") this.#tell("ready", {});
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
